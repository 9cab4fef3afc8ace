import { describe, expect, test } from "vitest";
import { alone, type Communicator, shareOf } from "../../src/distributed/index.ts";
import { BatchNorm } from "../../src/nn/index.ts";
import {
  adamW,
  calibrateQuantizedNet,
  DataLoader,
  type Dataset,
  Learner,
  type Module,
  memoryStore,
  type NormStatistics,
  oneHotTargets,
  QuantizedNet,
  sgd,
  Tensor,
  Trainer,
  type TrainerOptions,
  type TrainingEvent,
  type TrainingSummary,
} from "../../src/node.ts";
import { ownPlaces } from "../../src/training/learner.ts";
import { base, bytesOf, SmallNet, toyData } from "../training/support.ts";
import { inMemory } from "./in-memory.ts";

/*
 * Processes are promises here, so that this runs without MPI; mpi.test.ts does the same over the real thing.
 */

/** The network with batch norms that stay as they are: only then is the share of a batch like the batch. */
function frozenNet(): SmallNet {
  const net = new SmallNet().initialize(5) as SmallNet;
  for (const [path, module] of net.modules()) {
    if (!(module instanceof BatchNorm)) continue;
    Object.defineProperty(module, "training", { get: () => false, set: () => {} });
    const values = (from: number, step: number): Tensor =>
      Tensor.of(
        "float32",
        module.runningMean.shape,
        Array.from({ length: module.runningMean.shape[0] }, (_, i) => from + step * ((i + path.length) % 5)),
      );
    module.runningMean.set(values(-0.2, 0.1));
    module.runningVar.set(values(0.5, 0.3));
  }
  return net;
}

interface Run {
  readonly model: SmallNet;
  readonly summary: TrainingSummary;
  readonly events: readonly TrainingEvent[];
}

async function run(options: Partial<TrainerOptions>, model = new SmallNet()): Promise<Run> {
  const events: TrainingEvent[] = [];
  const onEvent = (event: TrainingEvent) => void events.push(event);
  const summary = await new Trainer(model, { ...base, epochs: 2, ...options, onEvent }).run();
  return { model, summary, events };
}

/** One run by so many processes. */
const together = (
  size: number,
  options: Partial<TrainerOptions> | ((group: Communicator) => Partial<TrainerOptions>),
  net: () => SmallNet = () => new SmallNet(),
): Promise<Run[]> =>
  Promise.all(
    inMemory(size).map((communicator) =>
      run({ ...(typeof options === "function" ? options(communicator) : options), communicator }, net()),
    ),
  );

/** Largest difference of two networks' values, by the largest value of the tensor. */
function distance(a: Module, b: Module): number {
  const other = b.stateDict();
  const of = ([key, t]: [string, { toFloat64(): Float64Array }]): number => {
    const [x, y] = [t.toFloat64(), (other.get(key) as Tensor).toFloat64()];
    const scale = Math.max(...x.map(Math.abs), 1e-3);
    return Math.max(...x.map((v, i) => Math.abs(v - y[i]))) / scale;
  };
  const entries = [...a.stateDict()].map(([key, t]): [string, Tensor] => [key, t.readSync()]);
  return Math.max(...entries.map(of));
}

describe("several processes give the single run's weights", () => {
  test.for<{ readonly name: string; readonly options: Partial<TrainerOptions> }>([
    { name: "as it is", options: {} },
    { name: "in parts", options: { accumulate: 2 } },
    { name: "blended pictures", options: { mix: { mixup: 0.4, cutmix: 1 } } },
    { name: "AdamW, clipped, averaged", options: { optimizer: adamW(), lr: 0.01, clipNorm: 0.5, ema: { decay: 0.9 } } },
    { name: "one batch that the processes do not divide", options: { batchSize: 50, dropLast: false } },
  ])("$name", async ({ options }) => {
    const one = await run(options, frozenNet());
    for (const size of [2, 3]) {
      const all = await together(size, options, frozenNet);
      expect(distance(one.model, all[0].model)).toBeLessThan(1e-6);
      // Everybody has the same bits.
      for (const { model } of all) expect(bytesOf(model)).toBe(bytesOf(all[0].model));
      const [record] = all[0].summary.history;
      expect(record.trainLoss).toBeCloseTo(one.summary.history[0].trainLoss, 6);
      expect(record.validationTop1).toBe(one.summary.history[0].validationTop1);
      if (options.ema)
        expect(distance(one.summary.averaged as Module, all[0].summary.averaged as Module)).toBeLessThan(1e-6);
    }
  });

  test.for<{ readonly name: string; readonly options: Partial<TrainerOptions> }>([
    { name: "as it is", options: {} },
    { name: "in parts, averaged", options: { accumulate: 2, ema: { decay: 0.9 } } },
    { name: "shares of different sizes", options: { batchSize: 11 } },
    { name: "computing inner values once more", options: { gradCheckpointing: true } },
  ])("and with them, where they are synced: $name", async ({ options }) => {
    const one = await run(options);
    for (const size of [2, 3]) {
      const all = await together(size, { ...options, batchNormStatistics: "synced" });
      expect(distance(one.model, all[0].model)).toBeLessThan(1e-6);
      for (const { model } of all) expect(bytesOf(model)).toBe(bytesOf(all[0].model));
      expect(all[0].summary.history[0].trainLoss).toBeCloseTo(one.summary.history[0].trainLoss, 6);
    }
  });

  test("gradients that travel as bfloat16: close, not equal, and the same for all", async () => {
    const options: Partial<TrainerOptions> = { gradientExchange: "bfloat16", lr: 0.01 };
    const [one, all] = [await run({ lr: 0.01 }, frozenNet()), await together(3, options, frozenNet)];
    const apart = distance(one.model, all[0].model);
    expect(apart).toBeGreaterThan(1e-6);
    expect(apart).toBeLessThan(2 ** -8);
    for (const { model } of all) expect(bytesOf(model)).toBe(bytesOf(all[0].model));
  });

  test("from run to run, the same bits", async () => {
    const [a, b] = [await together(3, {}), await together(3, {})];
    expect(bytesOf(a[0].model)).toBe(bytesOf(b[0].model));
  });
});

describe("networks in integers", () => {
  const batches = async () => [(await base.data.train.batch([0, 1, 2, 3, 4, 5])).images];
  const integers = async (): Promise<QuantizedNet<SmallNet>> => {
    const net = new QuantizedNet(new SmallNet().initialize(5) as SmallNet, { inputShape: [1, 4, 4] });
    await calibrateQuantizedNet(net, await batches());
    return net;
  };
  /** One step, and all that each process has then. */
  const stepped = (size: number, batchNormStatistics: NormStatistics) =>
    Promise.all(
      (size === 1 ? [alone] : inMemory(size)).map(async (communicator) => {
        const net = await integers();
        net.atProgress(0);
        const learner = new Learner(net, { optimizer: sgd(), communicator, batchNormStatistics, threads: 1 });
        const indices = Array.from({ length: 12 }, (_, i) => i).slice(...shareOf(12, communicator));
        const { images, labels } = await base.data.train.batch(indices);
        await learner.train(images, oneHotTargets(labels, 3), 0.01, 0, 12);
        const state = await learner.readState([...net.state()].map(([key]) => key));
        await learner.dispose();
        return new Map([...state].map(([key, tensor]) => [key, [...tensor.toFloat64()]]));
      }),
    );

  test("averaged: everybody has the same ranges and statistics after a step, local: not", async () => {
    const [a, b] = await stepped(2, "averaged");
    expect(b).toEqual(a);
    const [first, second] = await stepped(2, "local");
    const differing = [...first].flatMap(([key, values]) => (`${values}` === `${second.get(key)}` ? [] : [key]));
    expect(differing.some((key) => /^quantize\.activations\..*max$/.test(key))).toBe(true);
    expect(differing.every((key) => /^quantize|running/.test(key))).toBe(true);
  });

  test("synced: the single process's ranges", async () => {
    const [[one], all] = [await stepped(1, "synced"), await stepped(3, "synced")];
    for (const own of all) {
      expect(own).toEqual(all[0]);
      for (const [key, values] of own)
        for (const [i, value] of values.entries()) expect(value, key).toBeCloseTo(one.get(key)![i], 5);
    }
  });
});

describe("batch norms", () => {
  test("local: everybody ends with the statistics of process 0, averaged: with the mean, the same from step to step", async () => {
    const [local, averaged] = [
      await together(2, { batchNormStatistics: "local" }),
      await together(2, { batchNormStatistics: "averaged" }),
    ];
    for (const [a, b] of [local, averaged]) expect(bytesOf(a.model)).toBe(bytesOf(b.model));
    // Trained values do not depend on running statistics.
    for (const [key, p] of local[0].model.parameters())
      expect([...p.data.data], key).toEqual([...new Map(averaged[0].model.parameters()).get(key)!.data.data]);
    expect(bytesOf(local[0].model)).not.toBe(bytesOf(averaged[0].model));
  });
});

test("process 0 alone writes and tells, and its initial values are everybody's", async () => {
  const stores = [memoryStore(), memoryStore()];
  const all = await Promise.all(
    inMemory(2).map((communicator) => run({ communicator, store: stores[communicator.rank] }, other(communicator))),
  );
  expect(all.map(({ events }) => events.length > 0)).toEqual([true, false]);
  expect(await stores[0].load("last")).toBeDefined();
  expect(await stores[1].load("last")).toBeUndefined();
  expect(bytesOf(all[0].model)).toBe(bytesOf(all[1].model));
});

/** Networks that begin differently. */
const other = ({ rank }: Communicator): SmallNet => new SmallNet().initialize(rank) as SmallNet;

describe("a stop that one process is told of", () => {
  test.for([
    { from: 2, to: 4 },
    { from: 3, to: 1 },
    { from: 1, to: 2 },
  ])("stops all; $from processes go on as $to and end as if nothing had been", async ({ from, to }) => {
    const whole = await run({}, frozenNet());
    const store = memoryStore();
    const stop = new AbortController();
    const told = (group: Communicator): Partial<TrainerOptions> => ({
      store,
      ...(group.rank === group.size - 1 && { signal: stop.signal }),
      ...(group.rank === 0 && { callbacks: [(e) => void (e.type === "step" && e.step === 6 && stop.abort())] }),
    });
    const stopped = from === 1 ? [await run(told(alone), frozenNet())] : await together(from, told, frozenNet);
    expect(new Set(stopped.map(({ summary }) => `${summary.finished} ${summary.steps}`)).size).toBe(1);
    expect(stopped[0].summary).toMatchObject({ finished: false, steps: 6 });
    const options = { store, resume: true };
    const [again] = to === 1 ? [await run(options, frozenNet())] : await together(to, options, frozenNet);
    expect(again.summary.steps).toBe(8);
    expect(distance(whole.model, again.model)).toBeLessThan(1e-6);
    const [start] = again.events;
    expect(start.type === "start" && start.changed.join()).toMatch(/^processes: /);
  });
});

test("too many processes for a batch are refused", async () => {
  for (const [size, options] of [
    [13, {}],
    [4, { accumulate: 4 }],
  ] as const)
    await expect(run({ ...options, communicator: inMemory(size)[0] })).rejects.toThrow(
      /^trainer: a batch of 12 pictures( in 4 parts)? has parts of \d+, too few for \d+ processes\. Choose a larger `batchSize`/,
    );
});

describe("shares of a batch", () => {
  /** The first two pictures of every batch of the first epoch cannot be read, wherever they are asked for. */
  function withBadPictures(data: Dataset, bad: ReadonlySet<number>): Dataset {
    return {
      ...data,
      async batch(indices, draw) {
        const all = Array.from(indices);
        const missing = all.flatMap((index, place) => (bad.has(index) ? [place] : []));
        const good = all.filter((index) => !bad.has(index));
        return { ...(await data.batch(good, draw)), ...(missing.length && { missing }) };
      },
    };
  }

  test.for([
    { name: "plain", mix: undefined, bad: [] },
    { name: "blended", mix: { mixup: 1 }, bad: [] },
    { name: "with pasted parts", mix: { cutmix: 1 }, bad: [] },
    { name: "with unreadable pictures", mix: undefined, bad: [3, 4, 17, 30] },
    { name: "blended, with unreadable pictures", mix: { mixup: 1 }, bad: [3, 4, 17, 30] },
  ])("make up the batch: $name", async ({ mix, bad }) => {
    const data = withBadPictures(toyData(33), new Set(bad));
    const options = { batchSize: 11, shuffle: true, seed: 3, fill: true, mix };
    const whole: { images: number[]; targets: number[]; labels: number[]; indices: number[] }[] = [];
    for await (const { images, targets, labels, indices } of new DataLoader(data, options))
      whole.push({
        images: [...images.data],
        targets: [...(targets?.data ?? [])],
        labels: [...labels],
        indices: [...indices],
      } as never);
    for (const parts of [1, 2]) {
      const size = 3;
      const joined = whole.map(
        () => new Map<number, { image: number[]; target: number[]; label: number; index: number }>(),
      );
      for (let rank = 0; rank < size; rank++) {
        const share = (count: number) => ownPlaces(count, parts, { rank, size } as Communicator);
        for await (const b of new DataLoader(data, { ...options, share })) {
          const places = share(11);
          expect(b.images.shape[0]).toBe(places.length);
          for (const [i, place] of places.entries())
            joined[b.batch].set(place, {
              image: [...(b.images.data as Float32Array).slice(i * 16, (i + 1) * 16)],
              target: [...((b.targets?.data as Float32Array) ?? []).slice(i * 3, (i + 1) * 3)],
              label: b.labels[i],
              index: b.indices[i],
            });
        }
      }
      for (const [i, batch] of joined.entries()) {
        const rows = [...batch].sort(([a], [b]) => a - b).map(([, row]) => row);
        expect(rows.flatMap(({ image }) => image)).toEqual(whole[i].images);
        expect(rows.flatMap(({ target }) => target)).toEqual(whole[i].targets);
        expect(rows.map(({ label }) => label)).toEqual(whole[i].labels);
        expect(rows.map(({ index }) => index)).toEqual(whole[i].indices);
      }
    }
  });
});

test("the same gradients without momentum too", async () => {
  const options = { optimizer: sgd(), epochs: 1 };
  const [one, [two]] = [await run(options, frozenNet()), await together(2, options, frozenNet)];
  expect(distance(one.model, two.model)).toBeLessThan(1e-6);
});
