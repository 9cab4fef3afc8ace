// Merges damaged ONNX files and reports what came of them: an error that is not a RepmlpError is a crash.
// Usage: npx tsx scripts/fuzz-onnx.ts [count = 20000] [seed = 1]
import { fuzz } from "../test/convert/fuzzing.ts";
import { report } from "./fuzz-report.ts";

await report(fuzz, { milliseconds: 1000, rss: 500e6, memory: "500 MB", accepted: "merged", ending: ".onnx" });
