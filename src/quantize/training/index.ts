export { isQuantizationRange } from "../../checkpoint/run-entries.ts";
export { calibrateQuantizedNet } from "./calibrate.ts";
export { type ExportQuantizedOptions, exportQuantized, type QuantizedExport } from "./export.ts";
export { startInsertedNorms } from "./inserted-norms.ts";
export { type QuantizationAwareOptions, QuantizedNet, type QuantizedValues } from "./quantized-net.ts";
