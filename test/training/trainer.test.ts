import { chmodSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  convertToDeploy,
  evaluate,
  folderStore,
  type Module,
  memoryStore,
  noDecayOnNormAndBias,
  openCheckpointFile,
  preciseBatchNorm,
  RepmlpError,
  sgd,
  Trainer,
  type TrainerOptions,
  type TrainingCallback,
  type TrainingEvent,
} from "../../src/node.ts";
import { base, bytesOf, SmallNet, tempFolder, toyData, train } from "./support.ts";

test("learns, and reports everything in order", async () => {
  const { model, summary, events } = await train({ store: memoryStore(), epochs: 8 });
  expect(summary).toMatchObject({ finished: true, steps: 32 });
  expect(summary.best).toBeGreaterThan(0.9);
  expect(model.training).toBe(false);
  const order = events.map((e) => (e.type === "checkpoint" ? e.name : e.type)).join(" ");
  expect(order).toMatch(/^start( step step step step epoch last( best)?){8} done$/);
  expect(events[0]).toEqual({
    type: "start",
    epochs: 8,
    steps: 32,
    stepsPerEpoch: 4,
    resumedAt: 0,
    parameters: expect.any(Number),
    changed: [],
  });
  const of = <T extends TrainingEvent["type"]>(type: T) =>
    events.filter((e): e is Extract<TrainingEvent, { type: T }> => e.type === type);
  expect(of("step").map((e) => e.step)).toEqual(Array.from({ length: 32 }, (_, i) => i + 1));
  expect(of("step").at(-1)).toMatchObject({ epoch: 8, steps: 32, top1: summary.history[7].trainTop1 });
  // A checkpoint is the best exactly when its epoch says so.
  const bestSteps = of("epoch").flatMap((e) => (e.best ? [e.step] : []));
  expect(of("checkpoint").flatMap((e) => (e.name === "best" ? [e.step] : []))).toEqual(bestSteps);
  for (const record of summary.history) {
    expect(record.dataWait).toBeGreaterThanOrEqual(0);
    expect(record.dataWait).toBeLessThanOrEqual(1);
    expect(record.validationTop5).toBe(1);
  }
  expect(of("done")[0].bestTop1).toBe(summary.best);
});

test("the same seed gives the same run, another seed another one", async () => {
  const [a, b, c] = [await train({ epochs: 1 }), await train({ epochs: 1 }), await train({ epochs: 1, seed: 6 })];
  expect(bytesOf(a.model)).toBe(bytesOf(b.model));
  expect(bytesOf(a.model)).not.toBe(bytesOf(c.model));
});

test("without validation data there is neither a validation nor a best checkpoint", async () => {
  const { events, summary } = await train({ data: { train: toyData(50) }, store: memoryStore(), epochs: 1 });
  expect(events.filter((e) => e.type === "checkpoint").map((e) => e.name)).toEqual(["last"]);
  expect(summary.history[0]).not.toHaveProperty("validationTop1");
  expect(summary).not.toHaveProperty("best");
});

test("schedules in epochs", async () => {
  const rates = async (options: Partial<TrainerOptions>) =>
    (await train({ ...options, data: { train: toyData(50) } })).events.flatMap((e) =>
      e.type === "step" ? [e.lr] : [],
    );
  const step = await rates({ schedule: { kind: "step", milestones: [1, 2.5], gamma: 0.5 }, warmupEpochs: 0.5, lr: 1 });
  expect(step).toEqual([0, 0.5, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]);
  const cosine = await rates({ schedule: { kind: "cosine", minLr: 0.02 }, warmupEpochs: 1 });
  expect(cosine.slice(0, 5)).toEqual([0, 0.025, 0.05, expect.closeTo(0.075, 12), 0.1]);
  expect(cosine[8]).toBeCloseTo(0.06, 12);
  const own = train({ schedule: (s) => 0.1 - s, data: { train: toyData(50) } });
  await expect(own).rejects.toThrow("the schedule gives the rate -0.9 at step 1");
});

describe("early stop", () => {
  // A rate of nearly nothing: the accuracy of the first epoch is never surpassed.
  const idle = { lr: 1e-12, schedule: { kind: "constant" }, epochs: 9, patience: 3 } as const;

  test("ends the run when the accuracy has not risen for so many epochs, resumed or not", async () => {
    const whole = await train(idle);
    const best = whole.events.flatMap((e) => (e.type === "epoch" && e.best ? [e.epoch] : [])).at(-1)!;
    expect(whole.summary).toMatchObject({ finished: true, stoppedEarly: true });
    expect(whole.summary.history).toHaveLength(best + 3);
    expect(whole.summary.history.length).toBeLessThan(9);
    expect(whole.events.at(-1)).toMatchObject({ type: "done", stoppedEarly: true });
    const store = memoryStore();
    await train({ ...idle, store }, 4 * best + 5);
    const resumed = await train({ ...idle, store, resume: true });
    expect(resumed.summary.history).toHaveLength(best + 3);
    expect(bytesOf(resumed.model)).toBe(bytesOf(whole.model));
    // It is over, unless it gets more patience.
    expect((await train({ ...idle, store, resume: true })).events.map((e) => e.type)).toEqual(["start", "done"]);
    const longer = await train({ ...idle, store, resume: true, patience: 4 });
    expect(longer.events[0]).toMatchObject({ changed: ["patience: 3 → 4"] });
    expect(longer.summary.history).toHaveLength(best + 4);
  });

  test("does not touch a run whose accuracy rises", async () => {
    const { summary, events } = await train({ patience: 2, epochs: 3 });
    expect(summary).toMatchObject({ finished: true, stoppedEarly: false, steps: 12 });
    expect(events.at(-1)).not.toHaveProperty("stoppedEarly");
  });
});

test("with an average, it is what is validated and kept as the best", async () => {
  const store = memoryStore();
  const { model, summary, events } = await train({ store, ema: { decay: 0.8 }, epochs: 8 });
  const averaged = summary.averaged!;
  expect(averaged.training).toBe(false);
  expect(bytesOf(averaged)).not.toBe(bytesOf(model));
  const { validationTop1, validationLoss } = summary.history[7];
  const own = await evaluate(averaged, base.data.validation, { threads: 1 });
  expect(own.top1 / own.total).toBe(validationTop1);
  expect(own.lossSum / own.total).toBe(validationLoss);
  // The best checkpoint scores what its epoch says.
  const best = new SmallNet();
  best.loadStateDict((await store.load("best"))!.entries);
  const scored = await evaluate(best.eval(), base.data.validation, { threads: 1 });
  expect(scored.top1 / scored.total).toBe(summary.best);
  const last = (await store.load("last"))!;
  expect(last.entries.has("optimizer.ema:mix.fc3_bn.running_var")).toBe(true);
  expect(events[0]).toMatchObject({ type: "start" });
});

test("exact statistics are those of the final network; the checkpoint to resume from keeps the running ones", async () => {
  const store = memoryStore();
  const { model, summary } = await train({ store, preciseBatchNorm: { batches: 3 }, epochs: 2 });
  const plain = await train({ epochs: 2 });
  const weights = (net: Module): string => bytesOf(net).replace(/^.*running_.*$/gm, "");
  expect(weights(model)).toBe(weights(plain.model));
  expect(bytesOf(model)).not.toBe(bytesOf(plain.model));
  await preciseBatchNorm(plain.model, base.data.train, { batches: 3, batchSize: 12, seed: 5, threads: 1 });
  expect(bytesOf(model)).toBe(bytesOf(plain.model));
  const own = await evaluate(model, base.data.validation, { threads: 1 });
  expect(own.lossSum / own.total).toBe(summary.history[1].validationLoss);
  const mean = "mix.fc3_bn.running_mean";
  expect((await store.load("last"))!.entries.get(mean)!.readSync()).not.toEqual(
    model.stateDict().get(mean)!.readSync(),
  );
});

test("a callback observes every step and ends the run by aborting the signal", async () => {
  const stop = new AbortController();
  const store = memoryStore();
  const losses: number[] = [];
  const watch: TrainingCallback = (event) => {
    if (event.type === "step" && losses.push(event.loss) === 6) stop.abort();
  };
  const { summary, events } = await train({ store, signal: stop.signal, callbacks: [watch] });
  expect(losses).toHaveLength(6);
  expect(summary).toMatchObject({ finished: false, steps: 6 });
  expect(events.slice(-2)).toMatchObject([
    { type: "checkpoint", name: "last" },
    { type: "stopped", step: 6 },
  ]);
});

test("no weight decay on biases and norms", async () => {
  // With a rate of 1 and a decay of 1, every decayed value becomes its own negative gradient.
  const options = { optimizer: sgd({ weightDecay: 1 }), lr: 1e-3, schedule: { kind: "constant" }, epochs: 1 } as const;
  const values = async (group?: TrainerOptions["group"]) => {
    const { model } = await train({ ...options, group });
    return new Map([...model.state()].map(([key, p]) => [key, p.data.toFloat64()]));
  };
  const [all, some] = [await values(), await values(noDecayOnNormAndBias)];
  const gamma = "mix.fc3_bn.weight";
  // Four steps of 1 − 0.001 are seen in the scale, whose start is 1; the gradients are small beside it.
  const mean = (v: Float64Array): number => v.reduce((s, x) => s + x, 0) / v.length;
  expect(mean(some.get(gamma)!) - mean(all.get(gamma)!)).toBeCloseTo(0.004, 4);
  expect(noDecayOnNormAndBias("x", [...new SmallNet().parameters()][0][1])).toBeUndefined();
});

test("the best checkpoint is the model alone, ready for conversion", async () => {
  const folder = tempFolder();
  const { events } = await train({ store: folderStore(folder), metadata: { arch: "small" } });
  expect(readdirSync(folder).sort()).toEqual(["best.safetensors", "last.safetensors"]);
  using best = await openCheckpointFile(join(folder, "best.safetensors"));
  expect(best.metadata.arch).toBe("small");
  const model = new SmallNet();
  model.loadStateDict(best.entries);
  expect(convertToDeploy(model.eval()).mix.fc3Bn).toBeUndefined();
  using last = await openCheckpointFile(join(folder, "last.safetensors"));
  expect(last.entries.has("optimizer.momentum:head.weight")).toBe(true);
  expect(events.findLast((e) => e.type === "checkpoint")).toMatchObject({ step: expect.any(Number) });
});

describe("numbers that are not finite", () => {
  test("the loss: the run stops with step and epoch, and names the good checkpoint", async () => {
    const folder = tempFolder();
    const store = folderStore(folder);
    await train({ store, epochs: 1 });
    const last = join(folder, "last.safetensors");
    const before = readFileSync(last);
    const data = { train: toyData(50, (x, index) => (index === 7 ? Number.NaN : x)) };
    const broken = train({ store, resume: true, data });
    await expect(broken).rejects.toThrow(
      new RegExp(
        `^training: the loss is NaN at step [5-8] .* It happened in epoch 2\\. The last good checkpoint is ${last} \\(step 4\\)\\.$`,
      ),
    );
    await expect(broken).rejects.toMatchObject({ code: "training/nan-loss", kind: "training" });
    expect(readFileSync(last).equals(before)).toBe(true);
  });

  test.for([
    [1e38, "the validation loss is not finite"],
    [1e300, "\\S+ holds values that are not finite"],
  ] as const)("weights spoilt by the last step of an epoch, rate %f, are not saved", async ([rate, what]) => {
    const store = memoryStore();
    const schedule = (step: number): number => (step === 7 ? rate : 0.1);
    await expect(train({ store, schedule })).rejects.toThrow(
      new RegExp(
        `^training: ${what} after step 8 in epoch 2\\. .*The last good checkpoint is checkpoint "last" in memory \\(step 4\\)\\.$`,
      ),
    );
    const kept = await store.load("last");
    expect([...kept!.entries].flatMap(([, t]) => [...t.readSync().toFloat64()]).every(Number.isFinite)).toBe(true);
  });

  test("nothing saved yet", async () => {
    const fresh = train({ store: memoryStore(), lr: 1e30, schedule: { kind: "constant" } });
    await expect(fresh).rejects.toThrow("No checkpoint had been written yet.");
    await expect(fresh).rejects.toBeInstanceOf(RepmlpError);
  });
});

describe("refused before any step", () => {
  const refused = async (options: Partial<TrainerOptions>, model = new SmallNet()) => {
    const events: TrainingEvent[] = [];
    const trainer = new Trainer(model, { ...base, ...options, onEvent: (e) => events.push(e) });
    const error: unknown = await trainer.run().catch((e: unknown) => e);
    expect(error).toBeInstanceOf(RepmlpError);
    expect(events).toEqual([]);
    return (error as RepmlpError).message;
  };

  test("a store that cannot be written", async () => {
    const file = join(tempFolder(), "file");
    writeFileSync(file, "");
    expect(await refused({ store: folderStore(join(file, "inside")) })).toMatch(
      /inside: checkpoints cannot be written there \(\w+\)\. Choose another folder\.$/,
    );
  });

  test("a folder without permission", async () => {
    const folder = mkdtempSync(join(tempFolder(), "locked-"));
    chmodSync(folder, 0o500);
    // Permissions do not hold for root, who becomes somebody else meanwhile.
    const isRoot = process.getuid?.() === 0;
    if (isRoot) process.seteuid?.(65534);
    try {
      expect(await refused({ store: folderStore(folder) })).toContain("cannot be written there (EACCES)");
    } finally {
      if (isRoot) process.seteuid?.(0);
    }
  });

  test("a disk without room", async () => {
    await expect(folderStore(tempFolder()).prepare(2 ** 62)).rejects.toThrow(
      /a checkpoint needs \d+\.\d TB, the disk has .* left\. Free some space/,
    );
  });

  test("a network for other classes", async () => {
    expect(await refused({}, new SmallNet(5))).toBe(
      "trainer: the network has 5 outputs, the data 3 classes. Build the network with `numClasses` 3.",
    );
  });
});

test("options that make no sense are refused", () => {
  const make = (options: Partial<TrainerOptions>) => () => new Trainer(new SmallNet(), { ...base, ...options });
  expect(make({ epochs: 0 })).toThrow("epochs must be a positive integer, got 0");
  expect(make({ lr: 0 })).toThrow("lr must be positive, got 0");
  expect(make({ seed: 0.5 })).toThrow("seed must be an integer, got 0.5");
  expect(make({ data: { train: toyData(50), validation: { ...toyData(9), classes: ["a", "b"] } } })).toThrow(
    "the training data has pictures [1, 4, 4] of 3 classes, the validation data [1, 4, 4] of 2.",
  );
  expect(make({ batchSize: 51, dropLast: true })).toThrow("50 pictures make no batch of 51");
  expect(make({ batchSize: 51 })().totalSteps).toBe(3);
  expect(make({ patience: 0 })).toThrow("patience must be a positive integer, got 0");
  expect(make({ patience: 2, data: { train: toyData(50) } })).toThrow("patience 2 needs validation data");
  expect(make({ preciseBatchNorm: { batches: 0 } })).toThrow(
    "preciseBatchNorm.batches must be a positive integer, got 0",
  );
  expect(make({ accumulate: 0 })).toThrow("accumulate must be a positive integer, got 0");
  expect(make({ warmupEpochs: 3 })).toThrow("totalSteps (12) must be more than warmupSteps (12)");
});

test("a trainer runs once", async () => {
  const trainer = new Trainer(new SmallNet(), { ...base, epochs: 1 });
  await trainer.run();
  await expect(trainer.run()).rejects.toThrow("trainer: run() was called before");
});
