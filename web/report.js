/**
 * Shows on our nodes what their last run did, or why it failed.
 *
 * The page removes the text of progress when a run ends, and newer pages hide an error's message
 * until the user asks for it. So each node gets a text box of its own.
 */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { RATE_WIDGETS, getRootGraph } from "./common.js";

const NODES = ["LoadRIFEModel", "RIFEFrameInterpolate", "RIFEVideoInterpolate", "RIFEOpticalFlow"];
const REPORT_WIDGET = "report";
/** The page's own widget with the text of progress, which older pages leave on the node. */
const PROGRESS_WIDGET = "$$node-text-preview";

app.registerExtension({
  name: "rife-frame-interpolation.report",

  setup() {
    let failedNode = null;
    api.addEventListener("execution_error", ({ detail }) => {
      if (!NODES.includes(detail.node_type)) return;
      failedNode = findNode(detail.node_id);
      if (failedNode) showText(failedNode, detail.exception_message.trim());
    });
    api.addEventListener("execution_start", () => {
      removeWidget(failedNode, REPORT_WIDGET);
      failedNode = null;
    });
  },

  nodeCreated(node) {
    const onExecuted = node.onExecuted;
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      showReport(this, output);
    };
  },

  // The page calls this when the user comes back to a workflow.
  onNodeOutputsUpdated(outputs) {
    for (const [path, output] of Object.entries(outputs)) showReport(findNode(path), output);
  },
});

function showReport(node, output) {
  if (!NODES.includes(node?.comfyClass) || !output?.text) return;
  const otherRates = output.fps ? describeOtherRates(node, output.fps[0]) : [];
  showText(node, [...otherRates, ...output.text].join("\n"));
}

/**
 * Returns a line for each node that gets our frames and plays them at another rate than `fps`: its
 * rate was never connected, or slow motion is wanted. The lines are made here, as our node needn't
 * run again when that rate changes.
 */
function describeOtherRates(node, fps) {
  const links = [...node.graph.links.values()].filter((it) => it.origin_id === node.id);
  return links.filter((it) => it.origin_slot === 0).flatMap((link) => {
    const target = node.graph.getNodeById(link.target_id);
    const widget = target?.widgets?.find((it) => RATE_WIDGETS.includes(it.name));
    const isConnected = target?.inputs.find((it) => it.name === widget?.name)?.link != null;
    if (!widget || isConnected || Math.abs(widget.value - fps) < 0.01) return [];
    const rates = `${widget.value} fps, not at ${+fps.toFixed(3)}`;
    return [`${target.title} plays them at ${rates}: connect fps there to keep the speed.`];
  });
}

function showText(node, text) {
  removeWidget(node, PROGRESS_WIDGET);
  const widget = node.widgets.find((it) => it.name === REPORT_WIDGET) ?? addReport(node);
  widget.value = [...new Set(text.split("\n"))].join("\n"); // a list of clips repeats lines
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
}

function addReport(node) {
  const box = document.createElement("textarea");
  box.className = "comfy-multiline-input";
  box.readOnly = true;
  // The type is unknown to the page, which would else draw a widget of its own instead of the box.
  const widget = node.addDOMWidget(REPORT_WIDGET, "rife_report", box, {
    getMinHeight: () => parseInt(box.style.minHeight) || 0, // Nodes 2.0 reads the style itself
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

/** `path`: ids of the subgraphs around a node, or of the nodes that stand for them, and its own. */
function findNode(path) {
  const root = getRootGraph();
  let graph = root;
  let node;
  for (const id of String(path).split(":")) {
    node = graph?.getNodeById(id);
    graph = node?.subgraph ?? root.subgraphs?.get(id);
  }
  return node;
}
