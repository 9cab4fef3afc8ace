import type { Answer } from "../../convert/merge-blocks.ts";
import { convertBlocksFile } from "../../convert/node/blocks-file.ts";
import { must } from "../../errors.ts";
import type { Call } from "../table.ts";
import { grouped, textTable } from "../text-table.ts";
import { noteRemarks } from "../weights.ts";

/** Merges the blocks of a checkpoint of any network by their keys. */
export async function convertBlocks({ args: { load, save }, options, io }: Call<"convert">): Promise<undefined> {
  const start = performance.now();
  const progress = io.progress();
  const { key, prefix, dtype, skip, keepPairs } = options;
  const result = await convertBlocksFile(load, save, {
    ...{ key, prefix, dtype, skip, keepPairs, signal: io.signal },
    eps: answers("--eps", options.eps, "a number from 0", (text) => within(Number(text || "x"), (x) => x >= 0)),
    identity: answers("--identity", options.identity, "yes or no", yesOrNo),
    transposed: answers("--transposed", options.transposed, "yes or no", yesOrNo),
    kind: answers("--kind", options.kind, "the name of a kind, or none", (text) => text || undefined),
    partition: answers("--partition", options.partition, "height and width, such as 7x7", sizeOfPartition),
    onTensor: (label, done, total) => progress.update({ done, total, label }),
  }).finally(() => progress.stop());
  const { blocks, remarks, warnings, tensors, values } = result;
  noteRemarks(io, load, [...remarks, ...warnings]);
  const seconds = (performance.now() - start) / 1000;
  const merged = blocks.filter((b) => b.merged);
  const kinds: Record<string, number> = {};
  for (const { block } of merged) kinds[block] = (kinds[block] ?? 0) + 1;
  const counts = { merged: merged.length, left: blocks.length - merged.length };
  io.result({ load, save, ...result, kinds, blocks: options.explain ? blocks : counts, seconds }, () => {
    const rows = blocks.map((b) => [b.path, b.block, `${b.merged ? "merged" : "kept"}: ${b.note}`]);
    const what = Object.entries(kinds).map(([kind, count]) => `${count} ${kind}`);
    return [
      ...(options.explain ? [textTable([["block", "type", "what became of it"], ...rows], "lll"), ""] : []),
      `${what.join(", ")} merged; ${counts.left} left; ${grouped(tensors[0])} tensors became ${grouped(tensors[1])}, ` +
        `${grouped(values[0])} values ${grouped(values[1])}`,
      `wrote ${save}`,
    ].join("\n");
  });
  return undefined;
}

const within = (x: number, fits: (x: number) => boolean): number | undefined => (fits(x) ? x : undefined);
const yesOrNo = (text: string): boolean | undefined => ({ yes: true, no: false })[text];

function sizeOfPartition(text: string): readonly [number, number] | undefined {
  const [, h, w] = /^([1-9]\d{0,3})x([1-9]\d{0,3})$/.exec(text) ?? [];
  return h === undefined ? undefined : [Number(h), Number(w)];
}

/** `1e-3` for all blocks, `head.*=1e-3` for those whose path fits. */
function answers<T>(
  flag: string,
  given: readonly string[],
  expects: string,
  parse: (text: string) => T | undefined,
): readonly Answer<T>[] {
  return given.map((text) => {
    const at = text.lastIndexOf("=");
    const value = parse(text.slice(at + 1));
    must(
      value !== undefined,
      "cli/answer",
      () => `${flag} ${text}: must be ${expects}, for some blocks "<path>=<value>" with * for anything.`,
      "usage",
    );
    return { pattern: at < 0 ? "*" : text.slice(0, at), value };
  });
}
