/**
 * Shows on our nodes what their last run did, or why it failed.
 *
 * The page removes the text of progress when a run ends, and newer ones show no error's message
 * before one asks for it, so a node gets a box of its own.
 */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const NODES = ["LoadRIFEModel", "RIFEFrameInterpolate", "RIFEVideoInterpolate", "RIFEOpticalFlow"];
/** What nodes that play or save frames call their rate. */
const RATES = ["fps", "frame_rate"];
const REPORT = "report";
/** The page's own box of progress, which older pages leave on the node. */
const PROGRESS = "$$node-text-preview";

app.registerExtension({
  name: "rife-frame-interpolation.report",

  setup() {
    let failed = null;
    api.addEventListener("execution_error", ({ detail }) => {
      if (!NODES.includes(detail.node_type)) return;
      failed = findNode(detail.node_id);
      if (failed) showText(failed, detail.exception_message.trim());
    });
    api.addEventListener("execution_start", () => {
      removeWidget(failed, REPORT);
      failed = null;
    });
  },

  nodeCreated(node) {
    const onExecuted = node.onExecuted;
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      showReport(this, output);
    };
  },

  // When a workflow is shown again, after another one.
  onNodeOutputsUpdated(outputs) {
    for (const [path, output] of Object.entries(outputs)) showReport(findNode(path), output);
  },
});

function showReport(node, output) {
  if (!NODES.includes(node?.comfyClass) || !output?.text) return;
  const otherRates = output.fps ? findOtherRates(node, output.fps[0]) : [];
  showText(node, [...otherRates, ...output.text].join("\n"));
}

/**
 * A line for each node that gets our frames and plays them at another rate than `fps` gives: one
 * that was never connected there, or slow motion. It is found at each run, as ours needn't run
 * again then.
 */
function findOtherRates(node, fps) {
  const links = [...node.graph.links.values()].filter((it) => it.origin_id === node.id);
  return links.filter((it) => it.origin_slot === 0).flatMap((link) => {
    const target = node.graph.getNodeById(link.target_id);
    const widget = target?.widgets?.find((it) => RATES.includes(it.name));
    const isConnected = target?.inputs.find((it) => it.name === widget?.name)?.link != null;
    if (!widget || isConnected || Math.abs(widget.value - fps) < 0.01) return [];
    const rates = `${widget.value} fps, not at ${+fps.toFixed(3)}`;
    return [`${target.title} plays them at ${rates}: connect fps there to keep the speed.`];
  });
}

function showText(node, text) {
  removeWidget(node, PROGRESS);
  const widget = node.widgets.find((it) => it.name === REPORT) ?? addReport(node);
  widget.value = [...new Set(text.split("\n"))].join("\n"); // of a list of clips, each says the same
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
}

function addReport(node) {
  const box = document.createElement("textarea");
  box.className = "comfy-multiline-input";
  box.readOnly = true;
  // Of a type that pages don't know: they would draw another widget in the place of the box.
  const widget = node.addDOMWidget(REPORT, "rife_report", box, {
    getMinHeight: () => parseInt(box.style.minHeight) || 0, // Nodes 2.0 goes by the style itself
    getValue: () => box.value,
    setValue: (text) => {
      box.value = text;
      box.style.minHeight = `${Math.min(14 * countRows(text) + 14, 240)}px`;
    },
    serialize: false,
  });
  widget.serialize = false; // workflows keep values by position
  return widget;
}

function countRows(text) {
  return text.split("\n").reduce((rows, line) => rows + Math.ceil(line.length / 40), 0);
}

function removeWidget(node, name) {
  const widget = node?.widgets?.find((it) => it.name === name);
  if (widget) node.removeWidget(widget);
}

/** `path`: the node's id, after those of the subgraphs it is in, or of the nodes that stand for them. */
function findNode(path) {
  const root = app.rootGraph ?? app.graph;
  let graph = root;
  let node;
  for (const id of String(path).split(":")) {
    node = graph?.getNodeById(id);
    graph = node?.subgraph ?? root.subgraphs?.get(id);
  }
  return node;
}
