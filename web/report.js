// Shows on our nodes the report of their last run. It is a text box of its own, as the page removes
// the text of progress when a run ends.
import { app } from "../../scripts/app.js"

const NODES = ["RIFEFrameInterpolate", "RIFEVideoInterpolate", "RIFEOpticalFlow"]
const PROGRESS_TEXT = "$$node-text-preview" // of the page, which older ones leave on the node

function addReport(node) {
  const box = document.createElement("textarea")
  box.className = "comfy-multiline-input"
  box.readOnly = true
  const widget = node.addDOMWidget("report", "rife_report", box, {
    getMinHeight: () => 70,
    getValue: () => box.value,
    setValue: (text) => (box.value = text),
    serialize: false,
  })
  widget.serialize = false // workflows keep values by position
  const [width, height] = node.computeSize()
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)])
  return widget
}

function showReport(node, output) {
  if (!NODES.includes(node?.comfyClass) || !output?.text) return
  const progress = node.widgets.findIndex((widget) => widget.name === PROGRESS_TEXT)
  if (progress >= 0) node.widgets.splice(progress, 1)[0].onRemove?.()
  const widget = node.widgets.find((widget) => widget.name === "report") ?? addReport(node)
  widget.value = output.text.join("\n")
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
