import { describe, expect, test } from "vitest";
import { restoreCoefficients } from "../../src/inference/metadata.ts";
import { VanillaNet } from "../../src/models/index.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import { memoryStore, Trainer, type TrainerOptions } from "../../src/training/index.ts";
import { base } from "./support.ts";

const build = () => new VanillaNet({ dims: [4, 6, 8], strides: [1, 1], actNum: 1, numClasses: 3, inChannels: 1 });

async function run(options: Partial<TrainerOptions>, stopAt?: number) {
  const model = build();
  const [slopes, losses]: [number[], number[]] = [[], []];
  const stop = new AbortController();
  const store = memoryStore();
  const trainer = new Trainer(model, {
    ...{ ...base, epochs: 4, store, signal: stop.signal, ...options },
    onEvent: (event) => {
      if (event.type !== "step") return;
      slopes.push(model.slope.present);
      losses.push(event.loss);
      if (event.step === stopAt) stop.abort();
    },
  });
  await trainer.run();
  return { model, store, losses, slopes: [...new Set(slopes)] };
}

describe("a network's coefficient in training", () => {
  test("goes from epoch to epoch to its last value, with which the network can be merged", async () => {
    const { model, slopes } = await run({ coefficients: { slope: { epochs: 2 } } });
    expect(slopes).toEqual([0, 0.5, 1]);
    expect([...convertToDeploy(model).stateDict().keys()]).toContain("stages.0.conv.weight");
  });

  test("counts in the forward pass: the first loss is that of the network with this value", async () => {
    const [ramped, fixed, still] = await Promise.all([
      run({ coefficients: { slope: { epochs: 1, from: 0.25, curve: "cosine" } } }),
      run({ coefficients: { slope: { epochs: 1, from: 1 } } }),
      run({}),
    ]);
    expect(still.losses).toEqual(fixed.losses);
    expect(ramped.losses[0]).not.toBeCloseTo(fixed.losses[0], 4);
  });

  test("is noted in checkpoints, and a network opened from one has it", async () => {
    const { store } = await run({ coefficients: { slope: { epochs: 2 } } }, 5);
    const { metadata, entries } = (await store.load("last"))!;
    const model = build();
    restoreCoefficients(model, metadata, "last.safetensors");
    const { slope } = JSON.parse(metadata.coefficients);
    expect(slope).toBeLessThan(1);
    expect(model.slope.present).toBe(slope);
    expect([...entries.keys()].filter((key) => key.includes("slope"))).toEqual([]);
    expect(() => restoreCoefficients(model, { coefficients: '{"slop":1}' }, "a.pth")).toThrow(
      'a.pth: states a coefficient "slop", which the network does not have.',
    );
    expect(() => restoreCoefficients(model, { coefficients: '{"slope":"1"}' }, "a.pth")).toThrow(
      /a\.pth: the metadata "coefficients" is not usable/,
    );
  });

  test("a run resumed in the middle goes on to the bit", async () => {
    const options = { coefficients: { slope: { epochs: 2 } } };
    const whole = await run(options);
    const { store } = await run(options, 5);
    const resumed = await run({ ...options, store, resume: true });
    for (const [key, value] of whole.model.stateDict())
      expect([key, resumed.model.stateDict().get(key)?.readSync().data]).toEqual([key, value.readSync().data]);
    expect(resumed.model.slope.present).toBe(1);
  });

  test.for([
    [{ slop: { epochs: 2 } }, 'the network has no coefficient "slop"; it has slope.'],
    [{ slope: { epochs: 4 } }, 'the coefficient "slope" takes 4 epochs to its end.'],
  ] as const)("%j is refused", async ([coefficients, message]) => {
    await expect(run({ coefficients })).rejects.toThrow(message);
  });
});
