export { type ExportHubOptions, exportHub, type HubFolder } from "./hub.ts";
