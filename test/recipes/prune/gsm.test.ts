import { afterAll, beforeAll, expect, test } from "vitest";
import { expectResult, type PruneRuns, pruneRuns } from "./support.ts";

let runs: PruneRuns;
beforeAll(async () => {
  runs = await pruneRuns();
});
afterAll(() => runs.remove());

test("gsm: files, figures, an opened result", async () => {
  const result = await runs.run({ method: "gsm", share: 0.2, fineTune: { epochs: 1 } }, "gsm");
  await expectResult(result, { method: "gsm", target: 1, tuned: true });
  expect(Object.values(result.zeros!).every(({ zeros }) => zeros > 0)).toBe(true);
});
