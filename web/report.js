// Shows on our nodes the report of their last run. It is a text box of its own, as the page removes
// the text of progress when a run ends.
import { app } from "../../scripts/app.js"

const NODES = ["RIFEFrameInterpolate", "RIFEVideoInterpolate", "RIFEOpticalFlow"]
const RATES = ["fps", "frame_rate"] // what nodes that play or save frames call their rate
const PROGRESS_TEXT = "$$node-text-preview" // of the page, which older ones leave on the node

function addReport(node) {
  const box = document.createElement("textarea")
  box.className = "comfy-multiline-input"
  box.readOnly = true
  const widget = node.addDOMWidget("report", "rife_report", box, {
    getMinHeight: () => parseInt(box.style.minHeight) || 0, // Nodes 2.0 goes by the style itself
    getValue: () => box.value,
    setValue: (text) => {
      box.value = text
      box.style.minHeight = `${Math.min(14 * countRows(text) + 14, 240)}px`
    },
    serialize: false,
  })
  widget.serialize = false // workflows keep values by position
  return widget
}

function countRows(text) {
  return text.split("\n").reduce((rows, line) => rows + Math.ceil(line.length / 40), 0)
}

// A line for each node that gets our frames and plays them at another rate than `fps` gives: one that
// was never connected there, or slow motion. It is found at each run, as ours needn't run again then.
function findOtherRates(node, fps) {
  const links = [...node.graph.links.values()].filter((it) => it.origin_id === node.id)
  return links.filter((it) => it.origin_slot === 0).flatMap((link) => {
    const target = node.graph.getNodeById(link.target_id)
    const widget = target?.widgets?.find((it) => RATES.includes(it.name))
    const isConnected = target?.inputs.find((it) => it.name === widget?.name)?.link != null
    if (!widget || isConnected || Math.abs(widget.value - fps) < 0.01) return []
    const rates = `${widget.value} fps, not at ${+fps.toFixed(3)}`
    return [`${target.title} plays them at ${rates}: connect fps there to keep the speed.`]
  })
}

function showReport(node, output) {
  if (!NODES.includes(node?.comfyClass) || !output?.text) return
  const progress = node.widgets.findIndex((widget) => widget.name === PROGRESS_TEXT)
  if (progress >= 0) node.widgets.splice(progress, 1)[0].onRemove?.()
  const widget = node.widgets.find((widget) => widget.name === "report") ?? addReport(node)
  const otherRates = output.fps ? findOtherRates(node, output.fps[0]) : []
  const lines = [...otherRates, ...output.text].join("\n").split("\n")
  widget.value = [...new Set(lines)].join("\n") // of a list of clips, each says the same
  const [width, height] = node.computeSize()
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)])
}

function findNode(id) {
  const [nodeId, subgraphId] = String(id).split(":").reverse()
  const root = app.rootGraph ?? app.graph
  return (subgraphId ? root.subgraphs.get(subgraphId) : root)?.getNodeById(nodeId)
}

app.registerExtension({
  name: "RIFE.Report",
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return
    const onExecuted = node.onExecuted
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments)
      showReport(this, output)
    }
  },
  // Of a workflow that is shown again.
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) showReport(findNode(id), output)
  },
})
