import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { expectResult, type PruneRuns, pruneRuns } from "./support.ts";

let runs: PruneRuns;
beforeAll(async () => {
  runs = await pruneRuns();
});
afterAll(() => runs.remove());

const settings = { method: "resrep", flops: 0.6, lasso: 1, fromEpoch: 0, every: 1, fineTune: { epochs: 1 } };

test("resrep: files, figures, an opened result; it is not begun with again", async () => {
  const result = await runs.run(settings, "resrep");
  await expectResult(result, { method: "resrep", target: 0.6, tuned: true });
  expect(result.layers!.length).toBeGreaterThan(2);
  const init = join(runs.at("resrep"), "prune", "train.pth");
  await expect(runs.run({ method: "l1", flops: 0.5 }, "again", { init })).rejects.toThrow("has compactors");
});
