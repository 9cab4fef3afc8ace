/*
 * What came of damaged files, for the scripts that make them: counts per refusal, and exit code 1 when one crashes, takes
 * too long, or the process grows too large; the offending file is kept in the system's temporary folder.
 * Arguments of such a script: [count = 20000] [seed = 1].
 */
import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** What came of one damaged file. */
export interface Outcome {
  /** The valid file that it was made of. */
  readonly seed: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly milliseconds: number;
  /** Code of the refusal; `undefined` when nothing was refused. */
  readonly code?: string;
  /** What must not happen: any other error. */
  readonly crash?: unknown;
}

export interface Limits {
  readonly milliseconds: number;
  /** Of the process, in bytes. */
  readonly rss: number;
  /** The same, for people. */
  readonly memory: string;
  /** What a file is called of which nothing was refused. */
  readonly accepted: string;
  /** Ending of the files that are kept. */
  readonly ending: string;
}

export async function report(
  fuzz: (count: number, seed: number) => Iterable<Outcome> | AsyncIterable<Outcome>,
  { milliseconds: longest, rss, memory, accepted, ending }: Limits,
): Promise<void> {
  const count = Number(process.argv[2] ?? 20_000);
  const seed = Number(process.argv[3] ?? 1);
  const counts = new Map<string, number>();
  let [failures, slowest, done] = [0, 0, 0];
  for await (const { seed: origin, bytes, milliseconds, code = accepted, crash } of fuzz(count, seed)) {
    counts.set(code, (counts.get(code) ?? 0) + 1);
    slowest = Math.max(slowest, milliseconds);
    done++;
    const grown = process.memoryUsage.rss() > rss;
    if (crash === undefined && milliseconds <= longest && !grown) continue;
    const path = join(tmpdir(), `fuzz-${seed}-${done}${ending}`);
    writeFileSync(path, bytes);
    console.error(
      `${path} (from ${origin}): ${milliseconds.toFixed(0)} ms${grown ? `, over ${memory}` : ""}`,
      crash ?? "",
    );
    failures++;
    if (grown) break;
  }
  for (const [code, n] of [...counts].sort((a, b) => b[1] - a[1])) console.log(String(n).padStart(8), code);
  console.log(
    `${done} files, ${failures} failures, slowest ${slowest.toFixed(0)} ms, ` +
      `peak memory ${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB`,
  );
  if (failures > 0) process.exitCode = 1;
}
