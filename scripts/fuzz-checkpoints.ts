// Reads damaged checkpoint files and reports what came of them: an error that is not a RepmlpError of kind "file" is a crash.
// Usage: npx tsx scripts/fuzz-checkpoints.ts [count = 20000] [seed = 1]
import { fuzz } from "../test/checkpoint/fuzzing.ts";
import { report } from "./fuzz-report.ts";

await report(fuzz, { milliseconds: 2000, rss: 2 ** 30, memory: "1 GiB", accepted: "read", ending: ".bin" });
