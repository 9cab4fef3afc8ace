import { afterAll, beforeAll, expect, test } from "vitest";
import { expectResult, type PruneRuns, pruneRuns } from "./support.ts";

let runs: PruneRuns;
beforeAll(async () => {
  runs = await pruneRuns();
});
afterAll(() => runs.remove());

test("csgd: files, figures, an opened result", async () => {
  const result = await runs.run({ method: "csgd", flops: 0.6, strength: 4 }, "csgd");
  await expectResult(result, { method: "csgd", target: 0.6, tuned: false });
  expect(result.layers!.length).toBeGreaterThan(2);
});
