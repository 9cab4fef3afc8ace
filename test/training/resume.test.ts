import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import {
  adamW,
  type CheckpointStore,
  folderStore,
  memoryStore,
  nn,
  noDecayOnNormAndBias,
  type ParameterGroup,
  saveCheckpointFile,
  Trainer,
  type TrainerOptions,
  type TrainingEvent,
  type TrainingSummary,
} from "../../src/node.ts";
import { base, bytesOf, SmallNet, type Trained, tempFolder, toyData, train } from "./support.ts";

/** Results without the times. */
const results = ({ history }: TrainingSummary) =>
  history.map(({ seconds: _, imagesPerSecond: __, dataWait: ___, ...rest }) => rest);

describe("a run that is stopped and resumed gives the same weights to the bit", () => {
  let whole: Trained;
  beforeAll(async () => {
    whole = await train();
  });

  // In the middle of an epoch, at its last step, right after it.
  test.for([1, 4, 5, 11])("stopped at step %i", async (stopAt) => {
    const store = folderStore(tempFolder());
    const stopped = await train({ store }, stopAt);
    expect(stopped.summary).toMatchObject({ finished: false, steps: stopAt });
    expect(stopped.events.at(-1)).toMatchObject({ type: "stopped", step: stopAt });
    const resumed = await train({ store, resume: true });
    expect(resumed.events[0]).toMatchObject({ type: "start", resumedAt: stopAt, changed: [] });
    expect(bytesOf(resumed.model)).toBe(bytesOf(whole.model));
    expect(results(resumed.summary)).toEqual(results(whole.summary));
  });

  test("stopped three times, once before it had done a step", async () => {
    const store = memoryStore();
    await train({ store }, 3);
    await train({ store, resume: true }, 0);
    await train({ store, resume: true }, 7);
    const resumed = await train({ store, resume: true });
    expect(bytesOf(resumed.model)).toBe(bytesOf(whole.model));
  });

  test("crashed in an epoch: it is done again from its start", async () => {
    const store = folderStore(tempFolder());
    const crash = (event: TrainingEvent): void => {
      if (event.type === "step" && event.step === 6) throw new Error("pulled the plug");
    };
    await expect(train({ store, callbacks: [crash] })).rejects.toThrow("plug");
    const resumed = await train({ store, resume: true });
    expect(resumed.events[0]).toMatchObject({ resumedAt: 4 });
    expect(bytesOf(resumed.model)).toBe(bytesOf(whole.model));
  });

  test("resumed when it was complete: nothing is left to do", async () => {
    const store = memoryStore();
    await train({ store });
    const again = await train({ store, resume: true });
    expect(again.events.map((e) => e.type)).toEqual(["start", "done"]);
    expect(bytesOf(again.model)).toBe(bytesOf(whole.model));
  });
});

test("the signal may come from outside of the events, as Ctrl-C does", async () => {
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 300);
  const { summary, events } = await train({ epochs: 100_000, signal: stop.signal, data: { train: toyData(50) } });
  expect(summary.finished).toBe(false);
  expect(events.at(-1)).toMatchObject({ type: "stopped", step: summary.steps });
});

test("with AdamW, two threads and a last batch that is not full", async () => {
  const options = { optimizer: adamW(), lr: 1e-2, dropLast: false, threads: 2, epochs: 2 };
  const whole = await train(options);
  expect(whole.summary.steps).toBe(10);
  const store = memoryStore();
  await train({ ...options, store }, 7);
  const resumed = await train({ ...options, store, resume: true });
  expect(bytesOf(resumed.model)).toBe(bytesOf(whole.model));
});

describe("with clipping, batches in parts, averaged weights, exact statistics and a polynomial, all at once", () => {
  const options = {
    clipNorm: 0.5,
    accumulate: 2,
    ema: { decay: 0.9, warmup: true },
    preciseBatchNorm: { batches: 3, everyEpoch: true },
    patience: 50,
    schedule: { kind: "polynomial", power: 0.9, minLr: 1e-3 },
    warmupEpochs: 0.5,
  } as const satisfies Partial<TrainerOptions>;
  const kept = async (store: CheckpointStore, name: string) =>
    [...(await store.load(name))!.entries].map(([key, t]) => [key, [...t.readSync().toFloat64()]]);
  const wholeStore = memoryStore();
  let whole: Trained;
  beforeAll(async () => {
    whole = await train({ ...options, store: wholeStore });
  });

  test("each of them is at work", () => {
    const steps = whole.events.flatMap((e) => (e.type === "step" ? [e] : []));
    expect(Math.max(...steps.map((e) => e.gradientNorm!))).toBeGreaterThan(0.5);
    expect(steps.at(-1)!.lr).toBeCloseTo(1e-3 + (0.1 - 1e-3) * (1 / 10) ** 0.9, 12);
    expect(bytesOf(whole.summary.averaged!)).not.toBe(bytesOf(whole.model));
  });

  test.for([3, 4])("stopped at step %i: model, average and best checkpoint to the bit", async (stopAt) => {
    const store = folderStore(tempFolder());
    const stopped = await train({ ...options, store }, stopAt);
    expect(stopped.summary.averaged).toBeUndefined();
    const resumed = await train({ ...options, store, resume: true });
    expect(resumed.events[0]).toMatchObject({ type: "start", resumedAt: stopAt, changed: [] });
    expect(bytesOf(resumed.model)).toBe(bytesOf(whole.model));
    expect(bytesOf(resumed.summary.averaged!)).toBe(bytesOf(whole.summary.averaged!));
    expect(results(resumed.summary)).toEqual(results(whole.summary));
    for (const name of ["last", "best"]) expect(await kept(store, name)).toEqual(await kept(wholeStore, name));
  });

  test("resumed when it was complete: the same model and average once more", async () => {
    const again = await train({ ...options, store: wholeStore, resume: true });
    expect(bytesOf(again.model)).toBe(bytesOf(whole.model));
    expect(bytesOf(again.summary.averaged!)).toBe(bytesOf(whole.summary.averaged!));
  });

  test("the average cannot be left out or changed by the way", async () => {
    const changed = (ema?: TrainerOptions["ema"]) => train({ ...options, ema, store: wholeStore, resume: true });
    const saved = 'the saved run has ema {"decay":0.9,"warmup":true}, this one';
    await expect(changed()).rejects.toThrow(`${saved} default.`);
    await expect(changed({ decay: 0.5 })).rejects.toThrow(`${saved} {"decay":0.5}.`);
  });
});

describe("what may change", () => {
  let store: CheckpointStore;
  beforeAll(async () => {
    store = memoryStore();
    await train({ store, epochs: 1 });
  });
  const resumed = (options: Partial<TrainerOptions>) => train({ ...options, store, resume: true });

  test.for<[string, Partial<TrainerOptions>, string]>([
    ["another optimizer", { optimizer: adamW() }, "the saved run has optimizer sgd, this one adamw"],
    ["another batch size", { batchSize: 10 }, "the saved run has batchSize 12, this one 10"],
    ["another seed", { seed: 6 }, "the saved run has seed 5, this one 6"],
    ["other data", { data: { train: toyData(49) } }, "the saved run has length 50, this one 49"],
    ["the last batch", { dropLast: false }, "the saved run has stepsPerEpoch 4, this one 5"],
  ])("not: %s", async ([, options, message]) => {
    await expect(resumed(options)).rejects.toThrow(message);
  });

  test("epochs and rates may, and are reported", async () => {
    const { events, summary } = await resumed({ epochs: 2, lr: 0.05 });
    expect(events[0]).toMatchObject({ changed: ["epochs: 1 → 2", "lr: 0.1 → 0.05"] });
    expect(summary.history.map((r) => r.epoch)).toEqual([1, 2]);
  });

  test("freezing, rates, decay and momentum of single parameters may, and are reported by key", async () => {
    const changes: Readonly<Record<string, ParameterGroup>> = {
      "head.bias": { frozen: true },
      "head.weight": { lrScale: 0.5, momentum: 0.5 },
    };
    const group = (key: string, { shape }: { readonly shape: readonly number[] }): ParameterGroup => ({
      ...noDecayOnNormAndBias(key, { shape }),
      ...changes[key],
    });
    const own = memoryStore();
    await train({ store: own, epochs: 1 });
    const { events } = await train({ store: own, resume: true, epochs: 2, group });
    const changed = events[0].type === "start" ? events[0].changed : [];
    expect(changed.slice(0, 3)).toEqual(["epochs: 1 → 2", "frozen: now head.bias", "lrScale: now head.weight=0.5"]);
    expect(changed[3]).toMatch(/^weightDecay: now mix\.\S+=0, mix\.\S+=0, mix\.\S+=0/);
    expect(changed[4]).toBe("momentum: now head.weight=0.5");
    expect(changed).toHaveLength(5);
    // Back again: what was frozen has no momentum that could be gone on with.
    const back = await train({ store: own, resume: true, epochs: 3 });
    expect(back.events[0]).toMatchObject({
      changed: expect.arrayContaining([
        "frozen: no longer head.bias",
        "without saved state, starting anew: optimizer.momentum:head.bias",
      ]),
    });
  });

  test("what the caller says of the pictures may, and is reported", async () => {
    const own = memoryStore();
    await train({ store: own, epochs: 1, settings: { augment: "[]", mean: "0" } });
    const again = await train({ store: own, resume: true, epochs: 2, settings: { augment: "flip", mean: "0" } });
    expect(again.events[0]).toMatchObject({ changed: ["epochs: 1 → 2", "augment: [] → flip"] });
  });

  test.for<[string, readonly string[], RegExp]>([
    [
      "in another order",
      ["middle", "top", "bottom"],
      /class 0 is "middle" in this data, in the saved run "top" \(the same classes in another order\)/,
    ],
    [
      "with other names",
      ["top", "middle", "Bottom"],
      /class 2 is "Bottom" .*"bottom" \(then top, middle, bottom; now top, middle, Bottom\)/,
    ],
  ])("not the classes: %s", async ([, classes, message]) => {
    const [trainData, validation] = [base.data.train, base.data.validation].map((data) => ({ ...data, classes }));
    await expect(resumed({ data: { train: trainData, validation } })).rejects.toThrow(message);
  });

  test("not the classes of a run that an earlier version saved, which named them beside its settings", async () => {
    const old = memoryStore();
    await train({ store: old, epochs: 1 });
    const { entries, metadata } = (await old.load("last"))!;
    const state = JSON.parse(metadata["repmlp.training"]);
    for (const name of ["classes", "frozen", "lrScale", "weightDecay", "momentum"]) delete state.settings[name];
    const write = (classes: readonly string[]) =>
      old.save("last", {
        entries,
        metadata: { classes: JSON.stringify(classes), "repmlp.training": JSON.stringify(state) },
      });
    await write(["bottom", "middle", "top"]);
    await expect(train({ store: old, resume: true, epochs: 2 })).rejects.toThrow("the same classes in another order");
    await write(["top", "middle", "bottom"]);
    const { events } = await train({ store: old, resume: true, epochs: 2, group: () => ({ lrScale: 0.5 }) });
    expect(events[0]).toMatchObject({ changed: ["epochs: 1 → 2"] });
  });

  test("not the network", async () => {
    const other = new nn.Sequential(new nn.Flatten(), new nn.Linear(16, 3));
    const trainer = new Trainer(other, { ...base, store, resume: true });
    await expect(trainer.run()).rejects.toThrow(
      /^checkpoint "last" in memory: state dict: the keys do not match the model.* Resume with the network that/,
    );
  });
});

describe("checkpoints that cannot be resumed", () => {
  const resumeFrom = async (metadata: Record<string, string>) => {
    const folder = tempFolder();
    const entries = new SmallNet().stateDict();
    await saveCheckpointFile(join(folder, "last.safetensors"), entries, { metadata });
    return train({ store: folderStore(folder), resume: true });
  };
  test.for<[string, Record<string, string>, RegExp]>([
    ["weights alone", {}, /last\.safetensors: holds weights but no state of a training run/],
    ["broken JSON", { "repmlp.training": "{" }, /last\.safetensors: the state .* is not valid JSON/],
    ["a later format", { "repmlp.training": '{"version":2}' }, /cannot be read \(version: .*2/],
    ["nonsense", { "repmlp.training": "[]" }, /last\.safetensors: the state of the training run cannot be read/],
  ])("%s", async ([, metadata, message]) => {
    await expect(resumeFrom(metadata)).rejects.toThrow(message);
  });

  test("a damaged file", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, "last.safetensors"), "not a checkpoint at all");
    await expect(train({ store: folderStore(folder), resume: true })).rejects.toThrow("last.safetensors");
  });

  test("none yet: the run does not begin anew without a word", async () => {
    const run = train({ store: folderStore(tempFolder()), resume: true, epochs: 1 });
    await expect(run).rejects.toThrow('there is no checkpoint "last" to resume from');
  });

  test("no store", () => {
    expect(() => new Trainer(new SmallNet(), { ...base, resume: true })).toThrow("resume needs the store");
  });
});
