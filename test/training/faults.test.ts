import { describe, expect, test } from "vitest";
import {
  type Batch,
  type Dataset,
  Module,
  memoryStore,
  nn,
  ops,
  RepmlpError,
  subset,
  Tensor,
  Trainer,
  type TrainerOptions,
  type TrainingEvent,
  type Value,
} from "../../src/node.ts";
import { base, bytesOf, toyData, train } from "./support.ts";

/** A batch norm over one value per picture and channel. */
class PooledNorm extends Module {
  readonly conv = new nn.Conv2d(1, 3, { kernelSize: 3, padding: 1 });
  readonly norm = new nn.BatchNorm2d(3);

  forward(x: Value): Value {
    return ops.flatten(this.norm.forward(ops.avgPool2d(this.conv.forward(x), { kernelSize: 4 })));
  }
}

describe("batch norms that would see a single value are found before the first step", () => {
  const begin = async (options: Partial<TrainerOptions>): Promise<[string, TrainingEvent[]]> => {
    const events: TrainingEvent[] = [];
    const trainer = new Trainer(new PooledNorm(), { ...base, ...options, onEvent: (e) => events.push(e) });
    const error: unknown = await trainer.run().catch((e: unknown) => e);
    return [error instanceof RepmlpError ? error.message : "", events];
  };

  test.for<[string, Partial<TrainerOptions>, string]>([
    [
      "a last batch of one",
      { batchSize: 7, dropLast: false, data: { train: toyData(50) } },
      "the last batch of an epoch has 1 picture (50 in batches of 7): a batch norm would see one value per channel, which has no variance. Leave it out with dropLast: true, or choose another `batchSize`.",
    ],
    [
      "parts of one",
      { accumulate: 12 },
      "a batch has 12 pictures, of which accumulate 12 makes parts with a single picture: a batch norm would see one value per channel, which has no variance. Set accumulate to 11, or choose another `batchSize`.",
    ],
    [
      "a last part of one",
      { batchSize: 10, accumulate: 4 },
      "a batch has 10 pictures, of which accumulate 4 makes parts with a single picture: a batch norm would see one value per channel, which has no variance. Set accumulate to 3, or choose another `batchSize`.",
    ],
    ["not parts of three and more", { batchSize: 13, accumulate: 3, data: { train: toyData(26) } }, ""],
    [
      "a part of one in the last batch alone",
      { batchSize: 12, accumulate: 4, dropLast: false, data: { train: toyData(39) } },
      "the last batch of an epoch has 3 pictures (39 in batches of 12), of which accumulate 4 makes parts with a single picture: a batch norm would see one value per channel, which has no variance. Set accumulate to 1, or choose another `batchSize`.",
    ],
    [
      "batches of one",
      { batchSize: 1 },
      "a batch has 1 picture: a batch norm would see one value per channel, which has no variance. Set `batchSize` to 2 or more.",
    ],
  ])("%s", async ([, options, message]) => {
    const [found, events] = await begin({ ...options, epochs: 1 });
    if (message) {
      expect(found).toContain(message);
      expect(events).toEqual([]);
    } else {
      expect(found).toBe("");
      expect(events.at(-1)).toMatchObject({ type: "done" });
    }
  });
});

/** Pictures of which some cannot be read; a batch comes without them. */
function broken(data: Dataset, bad: readonly number[], asked: number[] = []): Dataset {
  return {
    ...data,
    async batch(indices, draw): Promise<Batch> {
      const all = Array.from(indices);
      asked.push(...all.filter((i) => bad.includes(i)));
      const missing = [...all.keys()].filter((place) => bad.includes(all[place]));
      const read = all.filter((i) => !bad.includes(i));
      const { images, labels } = read.length
        ? await data.batch(read, draw)
        : { images: Tensor.zeros("float32", [0, ...data.imageShape]), labels: new Int32Array() };
      return { images, labels, ...(missing.length && { missing }) };
    },
  };
}

describe("pictures that cannot be read", () => {
  test("their places are taken in training, and they are not counted in validation", async () => {
    const asked: number[] = [];
    const data = { train: broken(toyData(50), [3, 17, 18], asked), validation: broken(toyData(21), [0, 20]) };
    const { summary, events } = await train({ data, preciseBatchNorm: { batches: 2 } });
    expect(summary).toMatchObject({ finished: true, steps: 12 });
    expect(new Set(asked)).toEqual(new Set([3, 17, 18]));
    // 19 of 21 pictures are counted.
    const counted = summary.history.map((r) => r.validationTop1! * 19);
    for (const count of counted) expect(count).toBeCloseTo(Math.round(count), 9);
    expect(events.filter((e) => e.type === "step")).toHaveLength(12);
  });

  test("the same run to the bit when it is resumed", async () => {
    const data = { train: broken(toyData(50), [3, 17]), validation: toyData(21) };
    const whole = await train({ data });
    const store = memoryStore();
    await train({ data, store }, 6);
    expect(bytesOf((await train({ data, store, resume: true })).model)).toBe(bytesOf(whole.model));
  });

  test("a batch without any ends the run by name", async () => {
    const data = {
      train: broken(
        toyData(50),
        Array.from({ length: 50 }, (_, i) => i),
      ),
    };
    await expect(train({ data })).rejects.toThrow(
      /^dataset: none of the 12 pictures of a batch \(\d+, …\) can be read/,
    );
  });

  test("validation that fails does not lose the epoch: resumed, the run begins with it", async () => {
    const whole = await train();
    const store = memoryStore();
    const gone = broken(
      toyData(21),
      Array.from({ length: 21 }, (_, i) => i),
    );
    await expect(train({ data: { train: base.data.train, validation: gone }, store })).rejects.toThrow(
      "none of the 21 pictures could be read",
    );
    const { events, model, summary } = await train({ store, resume: true });
    expect(events.slice(0, 2)).toMatchObject([
      { type: "start", resumedAt: 4 },
      { type: "epoch", epoch: 1, step: 4 },
    ]);
    expect(bytesOf(model)).toBe(bytesOf(whole.model));
    expect(summary.history.map((r) => r.validationLoss)).toEqual(whole.summary.history.map((r) => r.validationLoss));
  });
});

describe("resuming", () => {
  test.for([
    [4, 1],
    [6, 1],
  ])("at step %i with epochs %i, which are over, is refused", async ([stopAt, epochs]) => {
    const store = memoryStore();
    await train({ store }, stopAt);
    const again = train({ store, resume: true, epochs });
    // Exactly as many epochs as were done is a finished run.
    if (stopAt === 4) expect((await again).events.map((e) => e.type)).toEqual(["start", "done"]);
    else
      await expect(again).rejects.toThrow(
        'trainer: checkpoint "last" in memory is in epoch 2 (step 6), but `epochs` is 1. Set `epochs` to 2 or more',
      );
  });

  test.for(["head.weight", "optimizer.momentum:head.weight"])(
    "a checkpoint whose %s is NaN is refused",
    async (key) => {
      const store = memoryStore();
      await train({ store }, 5);
      const { entries, metadata } = (await store.load("last"))!;
      const { shape } = entries.get(key)!;
      const spoilt = new Map(entries).set(key, Tensor.full("float32", shape, Number.NaN));
      await store.save("last", { entries: spoilt, metadata });
      await expect(train({ store, resume: true })).rejects.toThrow(
        `checkpoint "last" in memory: ${key} holds values that are not finite, so no run can go on from it.`,
      );
    },
  );

  test("what an optimizer keeps is checked before it is saved", async () => {
    const store = memoryStore();
    // The weight is left alone by a rate of 0 while its momentum overflows.
    const schedule = (): number => 0;
    const huge = subset(
      toyData(50, (x) => x * 1e30),
      Array.from({ length: 48 }, (_, i) => i),
    );
    const run = train({ store, schedule, data: { train: huge } });
    await expect(run).rejects.toThrow(/not finite|loss is/);
    expect(await store.load("last")).toBeUndefined();
  });
});
