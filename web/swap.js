/**
 * Completes the page's replacement of another pack's node by RIFE Frame Interpolate.
 *
 * The page carries over links and widget values as /node_replacements maps them. After that, this
 * module does what no mapping can say: the checkpoint becomes a Load RIFE Model, the rate that is
 * typed into the workflow becomes `source_fps`, and links that lead nowhere are removed.
 */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { RATE_WIDGETS, getRootGraph } from "./common.js";

const OURS = "RIFEFrameInterpolate";
const LOADER = "LoadRIFEModel";
/** Titles that other packs give their nodes; any other title is the user's own. */
const THEIR_TITLES = /^\W*(RIFE VFI|FL[ _]RIFE|RIFE ?Interpolation|RIFE Frame Interpolation)/;
/** Properties that say from which pack a node comes. */
const ORIGIN_PROPERTIES = ["cnr_id", "aux_id", "ver"];

app.registerExtension({
  name: "rife-frame-interpolation.swap",

  async afterConfigureGraph() {
    const root = getRootGraph();
    const graphs = [root, ...(root.subgraphs?.values() ?? [])];
    // Only nodes of a missing type keep what the workflow says of them.
    const missing = graphs.flatMap((graph) => graph.nodes.filter((it) => it.last_serialization));
    if (!missing.length) return;
    const response = await api.fetchApi("/node_replacements");
    const replacements = response.ok ? await response.json() : {}; // older servers have none
    for (const node of missing) {
      const replacement = replacements[node.last_serialization.type]?.[0];
      if (replacement?.new_node_id === OURS) completeWhenSwapped(node, replacement);
    }
  },
});

/** Completes the swap of a missing node when the user asks the page for it, if ever. */
function completeWhenSwapped(theirs, replacement) {
  const onRemoved = theirs.onRemoved;
  theirs.onRemoved = function () {
    onRemoved?.apply(this);
    const { graph, id } = this;
    queueMicrotask(() => {
      const ours = graph.getNodeById(id);
      if (ours?.type !== OURS) return; // deleted, not swapped
      graph.beforeChange();
      takeOver(ours, theirs.last_serialization, replacement);
      graph.afterChange();
      graph.setDirtyCanvas(true, true);
    });
  };
}

/** `theirs`: the replaced node, as the workflow has it. */
function takeOver(ours, theirs, replacement) {
  const fresh = LiteGraph.createNode(OURS);
  if (THEIR_TITLES.test(theirs.title ?? "")) ours.title = fresh.title;
  for (const key of ORIGIN_PROPERTIES) {
    delete ours.properties[key];
    if (key in fresh.properties) ours.properties[key] = fresh.properties[key];
  }
  const size = ours.computeSize();
  ours.setSize([Math.max(ours.size[0], size[0]), size[1]]);
  dropStrayLinks(ours);

  const oldInput = (input) => replacement.input_mapping.find((it) => it.new_id === input)?.old_id;
  const checkpoint = theirs.widgets_values?.[replacement.old_widget_ids.indexOf(oldInput("model"))];
  if (!connectLoader(ours, checkpoint)) {
    app.extensionManager.toast.add({
      severity: "info",
      summary: ours.title,
      detail:
        `${checkpoint ?? "The model it had"} is not among the models here: the default model is ` +
        "used. Connect Load RIFE Model for another one.",
      life: 10_000,
    });
  }
  if (!oldInput("source_fps")) setSourceRate(ours);
}

/** Removes links of a wrong type, and those to inputs that ours lacks, which older pages leave. */
function dropStrayLinks(ours) {
  const { graph } = ours;
  for (const link of [...graph.links.values()].filter((it) => it.target_id === ours.id)) {
    const slot = link.target_slot;
    if (ours.getInputLink(slot)?.id !== link.id) {
      const output = graph.getNodeById(link.origin_id)?.outputs[link.origin_slot];
      const linkIds = output?.links ?? graph.inputs?.[link.origin_slot]?.linkIds ?? [];
      linkIds.splice(linkIds.indexOf(link.id), 1);
      link.disconnect(graph);
    } else if (!LiteGraph.isValidConnection(link.type, ours.inputs[slot].type)) {
      ours.disconnectInput(slot);
    }
  }
}

/**
 * Connects a Load RIFE Model that has the checkpoint, a new one if the graph has none. Returns
 * false if no model has that name, with or without its extension.
 */
function connectLoader(ours, checkpoint) {
  const { graph } = ours;
  const modelName = (loader) => loader.widgets.find((it) => it.name === "model_name");
  const newLoader = LiteGraph.createNode(LOADER);
  const file = modelName(newLoader).options.values.find(
    (name) => name === checkpoint || name.replace(/\.\w+$/, "") === checkpoint,
  );
  if (!file) return false;
  let loader = graph.nodes.find((it) => it.type === LOADER && modelName(it).value === file);
  if (!loader) {
    loader = newLoader;
    modelName(loader).value = file;
    loader.pos = [ours.pos[0], ours.pos[1] - loader.size[1] - 80]; // above, with room for titles
    graph.add(loader);
  }
  loader.connect(0, ours, ours.findInputSlot("model"));
  return true;
}

/**
 * Sets `source_fps` so that the `fps` output is the rate that is typed into the workflow, which is
 * the multiplied one.
 */
function setSourceRate(ours) {
  const multiplier = numberOf(ours, "multiplier");
  const rate = findRate(ours);
  if (!rate || !multiplier) return; // unknown, or comes over a link
  ours.widgets.find((it) => it.name === "source_fps").value = +(rate / multiplier).toFixed(3);
}

/** Returns the rate that is typed into the nearest node which the images of `from` reach. */
function findRate(from) {
  const { graph } = from;
  const reached = new Set([from]);
  for (const node of reached) {
    for (const link of graph.links.values()) {
      const target = graph.getNodeById(link.target_id);
      if (link.origin_id !== node.id || link.type !== "IMAGE" || !target) continue;
      const rate = RATE_WIDGETS.map((name) => numberOf(target, name)).find(Boolean);
      if (rate) return rate;
      reached.add(target);
    }
  }
}

/** Returns the number typed into a widget, or into the node that is connected in its place. */
function numberOf(node, name) {
  const slot = node.inputs?.findIndex((it) => it.name === name) ?? -1;
  const link = slot < 0 ? null : node.getInputLink(slot);
  const saved = (it) => it?.last_serialization?.widgets_values; // of a missing node
  const widget = node.widgets?.find((it) => it.name === name);
  if (!link) return asNumber(widget?.value ?? saved(node)?.[name]);
  const origin = node.graph.getNodeById(link.origin_id);
  if (origin?.inputs?.some((_, index) => origin.getInputLink(index))) return undefined; // computed
  return asNumber(origin?.widgets?.[0]?.value ?? saved(origin)?.[0]);
}

function asNumber(value) {
  return typeof value === "number" && value > 0 ? value : undefined;
}
