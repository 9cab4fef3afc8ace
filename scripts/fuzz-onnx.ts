// Merges damaged ONNX files and reports what came of them.
// Usage: npx tsx scripts/fuzz-onnx.ts [count = 20000] [seed = 1]
// Exit code 1 when one crashes (an error that is not a RepmlpError), takes over a second, or the process grows beyond
// 500 MB; the offending file is kept in the system's temporary folder.
import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fuzz } from "../test/convert/fuzzing.ts";

const MAX_MILLISECONDS = 1000;
const MAX_RSS = 500e6;

const count = Number(process.argv[2] ?? 20_000);
const seed = Number(process.argv[3] ?? 1);
const counts = new Map<string, number>();
let [failures, slowest, done] = [0, 0, 0];

for (const { seed: origin, bytes, milliseconds, code, crash } of fuzz(count, seed)) {
  counts.set(code ?? "merged", (counts.get(code ?? "merged") ?? 0) + 1);
  slowest = Math.max(slowest, milliseconds);
  done++;
  const grown = process.memoryUsage.rss() > MAX_RSS;
  if (crash === undefined && milliseconds <= MAX_MILLISECONDS && !grown) continue;
  const path = join(tmpdir(), `fuzz-${seed}-${done}.onnx`);
  writeFileSync(path, bytes);
  console.error(`${path} (from ${origin}): ${milliseconds.toFixed(0)} ms${grown ? ", over 500 MB" : ""}`, crash ?? "");
  failures++;
  if (grown) break;
}

for (const [code, n] of [...counts].sort((a, b) => b[1] - a[1])) console.log(String(n).padStart(8), code);
console.log(
  `${done} files, ${failures} failures, slowest ${slowest.toFixed(0)} ms, ` +
    `peak memory ${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB`,
);
if (failures > 0) process.exitCode = 1;
