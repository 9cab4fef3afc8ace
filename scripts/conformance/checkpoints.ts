import { existsSync } from "node:fs";
import { join } from "node:path";
import { RepmlpError } from "../../src/errors.ts";
import { openCheckpointFile } from "../../src/node.ts";
import { type TensorSource, tensorBytes } from "../../src/tensor/index.ts";
import { type CaseResult, runCase } from "./report.ts";

/** A file of the goldens' checkpoint list. */
export interface CheckpointCase {
  readonly file: string;
  readonly expect: "ok" | "error";
  readonly expected_prefix?: string;
}

/** Reads a file and compares every tensor bit by bit; or checks that it is refused with an error of ours. */
export function checkCheckpoint(
  folder: string,
  c: CheckpointCase,
  expected: ReadonlyMap<string, TensorSource>,
): Promise<CaseResult> {
  return runCase(c.file, async (check) => {
    const path = join(folder, c.file);
    if (!existsSync(path)) return check.fail(`${path} is missing`);
    if (c.expect === "error") {
      const error = await openCheckpointFile(path, { verify: "open" }).then(
        () => undefined,
        (e: unknown) => e,
      );
      check.equal("refused with a clear error", error instanceof RepmlpError && error.message.includes(path), true);
      if (error instanceof RepmlpError) check.note(error.message.replace(path, "…"));
      return;
    }
    using checkpoint = await openCheckpointFile(path, { verify: "open" });
    const prefix = `${c.expected_prefix}/`;
    const wanted = new Map(
      [...expected].filter(([k]) => k.startsWith(prefix)).map(([k, t]) => [k.slice(prefix.length), t]),
    );
    check.equal("keys", [...checkpoint.entries.keys()].sort(), [...wanted.keys()].sort());
    for (const [key, golden] of wanted) {
      const [a, e] = [await checkpoint.entries.get(key)!.read(), await golden.read()];
      check.equal(`type of ${key}`, [a.dtype, a.shape], [e.dtype, e.shape]);
      check.equal(`bytes of ${key}`, Buffer.compare(tensorBytes(a), tensorBytes(e)), 0);
    }
  });
}
