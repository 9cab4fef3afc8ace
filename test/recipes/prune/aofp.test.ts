import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Net } from "../../../src/nn/index.ts";
import { OnnxNet, openModelFile, openOnnx } from "../../../src/node.ts";
import { expectResult, type PruneRuns, pruneRuns, valuesOf } from "./support.ts";

let runs: PruneRuns;
beforeAll(async () => {
  runs = await pruneRuns();
});
afterAll(() => runs.remove());

const settings = { method: "aofp", flops: 0.6, damage: 1e9, stepsPerHalf: 1, from: 0, fineTune: { epochs: 1 } };

test("aofp: files, figures, an opened result; stopped in either training and resumed: the same bytes", async () => {
  const whole = await runs.run(settings, "aofp");
  await expectResult(whole, { method: "aofp", target: 0.6, tuned: true });
  expect(whole.layers!.length).toBeGreaterThan(2);
  for (const phase of ["prune", "fine-tune"] as const) {
    const stop = new AbortController();
    const out = `stopped-${phase}`;
    const first = await runs.run(settings, out, {
      signal: stop.signal,
      onEvent: (event, _, at) => {
        if (at === phase && event.type === "step" && event.step === 3) stop.abort();
      },
    });
    expect(first.finished).toBe(false);
    await expect(runs.run(settings, out)).rejects.toThrow("holds the results of an earlier run");
    const second = await runs.run(settings, out, { resume: true });
    expect(await valuesOf(second.weights!)).toBe(await valuesOf(join(runs.at("aofp"), "fine-tune", "train.pth")));
  }
});

test("a checkpoint of the search is no network yet, and says what to do", async () => {
  await runs.run({ ...settings, fineTune: undefined }, "searched");
  const path = join(runs.at("searched"), "prune", "train.pth");
  await expect(openModelFile(path)).rejects.toThrow(
    /train\.pth: AOFP was still choosing .* \(repmlp prune with --resume\) and open pruned\.safetensors/,
  );
  await expect(runs.run(settings, "again", { init: path })).rejects.toThrow("AOFP was still choosing");
});

test("an ONNX model stays one", async () => {
  const result = await runs.run(settings, "onnx", { init: runs.at("whole.onnx") });
  expect(result.weights).toContain("model.onnx");
  const net: Net & OnnxNet = new OnnxNet(await openOnnx(result.weights!));
  expect(net.classes).toBe(10);
  expect(result.macs![1] / result.macs![0]).toBeLessThanOrEqual(0.6);
});
