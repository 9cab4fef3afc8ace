import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { openModelFile, type PruneOptions, type PruneResult, parseRecipe, prune } from "../../../src/node.ts";
import { prunableFiles } from "../../prune/files.ts";
import { writeCifar } from "../support.ts";

const base = { epochs: 2, batchSize: 24, lr: 0.01, optimizer: { name: "sgd", momentum: 0.9 } };

/** Two short epochs; `entries` say how to prune. */
export const recipeOf = (entries?: object): PruneOptions["recipe"] =>
  parseRecipe(JSON.stringify({ ...base, ...(entries && { prune: entries }) }), "recipe.json");

/** Runs on a data set of few pictures, in folders beside it. */
export interface PruneRuns {
  at(name: string): string;
  run(entries: object, out: string, more?: Partial<PruneOptions>): Promise<PruneResult>;
  remove(): void;
}

export async function pruneRuns(): Promise<PruneRuns> {
  const { at, remove } = await prunableFiles("Cifar-quick-base");
  writeCifar(at("cifar"), { train: 96, test: 30 });
  const run: PruneRuns["run"] = (entries, out, more = {}) =>
    prune({
      ...{ data: at("cifar"), recipe: recipeOf(entries), init: at("whole.safetensors"), folder: at(out) },
      ...{ seed: 1, threads: 1 },
      ...more,
    });
  return { at, run, remove };
}

export const valuesOf = async (path: string): Promise<string> => {
  using opened = await openModelFile(path);
  return JSON.stringify([...opened.net.state()].map(([key, p]) => [key, [...p.data.toFloat64()]]));
};

/** What every method leaves: files, figures, a result that opens. */
export async function expectResult(
  result: PruneResult,
  { method, target, tuned }: { readonly method: string; readonly target: number; readonly tuned: boolean },
): Promise<void> {
  expect(result.finished).toBe(true);
  const [before, after] = result.macs!;
  expect(after / before).toBeLessThanOrEqual(target);
  for (const file of ["pruned.safetensors", "pruning.json", "pruning.svg"])
    expect(existsSync(join(result.folder, file))).toBe(true);
  expect(JSON.parse(readFileSync(join(result.folder, "pruning.json"), "utf8")).method).toBe(method);
  using opened = await openModelFile(result.weights!);
  expect(opened.arch).toBe("Cifar-quick-base");
  expect(result.weights!.includes("fine-tune")).toBe(tuned);
  expect(result.tuned === undefined).toBe(!tuned);
}
