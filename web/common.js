/** What our extensions of the page share. The page loads this file as well, which does nothing. */
import { app } from "../../scripts/app.js";

/** Names of the widgets in which nodes that play or save frames have their rate. */
export const RATE_WIDGETS = ["fps", "frame_rate"];

/** The workflow's outermost graph; older pages have no other. */
export function getRootGraph() {
  return app.rootGraph ?? app.graph;
}
