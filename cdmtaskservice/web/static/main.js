// Starts what a page has use for. Every page works without all this; it only gets livelier with it.
import { startLive } from "./live.js";
import { startGrid } from "./grid.js";
import { startLog } from "./log.js";
import { startForm } from "./form.js";

startLive();
startGrid();
startLog();
startForm();
