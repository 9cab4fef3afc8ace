import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DataLoader, horizontalFlip, type LoadedBatch, PixelDataset, randomCrop } from "../../src/data/index.ts";

/** `length` pictures [2, 3, 5] whose first byte is their index. */
const pixels = (length: number): PixelDataset =>
  new PixelDataset({
    pixels: Uint8Array.from({ length: length * 30 }, (_, i) => (i % 30 === 0 ? i / 30 : i * 7)),
    labels: Int32Array.from({ length }, (_, i) => i % 4),
    imageShape: [2, 3, 5],
    classes: ["a", "b", "c", "d"],
    mean: [0, 0.5],
    std: [1, 2],
    augment: [randomCrop({ padding: 1 }), horizontalFlip()],
  });

const collect = async (loader: AsyncIterable<LoadedBatch>): Promise<LoadedBatch[]> => {
  const batches: LoadedBatch[] = [];
  for await (const batch of loader) batches.push(batch);
  return batches;
};

describe("what a data set of one's own gets wrong is refused with the picture's index", () => {
  const wrong = (change: (batch: LoadedBatch) => object): Promise<LoadedBatch[]> => {
    const data = pixels(10);
    const batch = async (...args: Parameters<typeof data.batch>) => {
      const loaded = await data.batch(...args);
      return { ...loaded, ...change(loaded as LoadedBatch) };
    };
    const { length, classes, imageShape } = data;
    return collect(new DataLoader({ length, classes, imageShape, batch }, { batchSize: 4 }));
  };
  test.for<[string, (batch: LoadedBatch) => object, string]>([
    [
      "a label out of range",
      () => ({ labels: Int32Array.of(0, 1, 4, 0) }),
      "picture 2 has label 4, but there are 4 classes",
    ],
    [
      "labels too few",
      () => ({ labels: Int32Array.of(0) }),
      "must be [4, 2, 3, 5] with 4 labels, got [4, 2, 3, 5] with 1",
    ],
    [
      "pictures of another size",
      ({ images }) => ({ images: images.reshape([4, 2, 5, 3]) }),
      "must be [4, 2, 3, 5] with 4",
    ],
  ])("%s", async ([, change, message]) => {
    await expect(wrong(change)).rejects.toThrow(message);
  });
});

describe("DataLoader", () => {
  test("covers every picture once, whatever the sizes", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 60 }),
        fc.integer({ min: 1, max: 20 }),
        fc.boolean(),
        fc.integer({ min: 0, max: 5 }),
        async (length, batchSize, shuffle, prefetch) => {
          const loader = new DataLoader(pixels(length), { batchSize, shuffle, prefetch, seed: length });
          const batches = await collect(loader);
          expect(batches).toHaveLength(loader.length);
          const seen = batches.flatMap(({ indices }) => [...indices]);
          const all = Array.from({ length }, (_, i) => i);
          expect(shuffle ? seen.sort((a, b) => a - b) : seen).toEqual(all);
          for (const { indices, labels } of batches) expect([...labels]).toEqual([...indices].map((i) => i % 4));
        },
      ),
      { numRuns: 40 },
    );
  });

  test("orders differ between epochs and seeds, and repeat for the same", async () => {
    const order = async (seed: number, epoch: number): Promise<string> => {
      const loader = new DataLoader(pixels(50), { batchSize: 50, shuffle: true, seed });
      loader.seek(epoch);
      return (await collect(loader))[0].indices.join();
    };
    const orders = await Promise.all([order(1, 0), order(1, 1), order(2, 0), order(2, 1)]);
    expect(new Set(orders).size).toBe(4);
    expect(await order(2, 1)).toBe(orders[3]);
  });

  test("a run resumed in the middle of an epoch equals one that was not interrupted", async () => {
    const make = (prefetch: number) => new DataLoader(pixels(47), { batchSize: 5, shuffle: true, seed: 3, prefetch });
    const whole = make(2);
    const uninterrupted = [...(await collect(whole)), ...(await collect(whole))];
    const first = make(4);
    const head: LoadedBatch[] = await collect(first);
    for await (const batch of first) {
      head.push(batch);
      if (batch.batch === 3) break;
    }
    const state = JSON.parse(JSON.stringify(first.state()));
    expect(state).toMatchObject({ epoch: 1, batch: 4 });
    const second = make(0);
    second.restore(state);
    expect([...head, ...(await collect(second))]).toEqual(uninterrupted);
    expect(second.state()).toMatchObject({ epoch: 2, batch: 0 });
  });

  test("the next loop goes on where the last one was left", async () => {
    const loader = new DataLoader(pixels(10), { batchSize: 3 });
    for await (const _ of loader) break;
    expect((await collect(loader)).map(({ batch }) => batch)).toEqual([1, 2, 3]);
  });

  test("dropLast leaves out what is not full", async () => {
    const loader = new DataLoader(pixels(10), { batchSize: 4, dropLast: true });
    expect((await collect(loader)).map(({ labels }) => labels.length)).toEqual([4, 4]);
  });

  test("a failure surfaces at its own batch, not before", async () => {
    const data = pixels(9);
    const failing = {
      length: 9,
      classes: data.classes,
      imageShape: data.imageShape,
      batch: (indices: ArrayLike<number>) =>
        indices[0] === 6 ? Promise.reject(new Error("bad")) : data.batch(indices),
    };
    const seen: number[] = [];
    const loop = async (): Promise<void> => {
      for await (const { batch } of new DataLoader(failing, { batchSize: 3 })) seen.push(batch);
    };
    await expect(loop()).rejects.toThrow("bad");
    expect(seen).toEqual([0, 1]);
  });

  test("says what is wrong with its options", () => {
    expect(() => new DataLoader(pixels(3), { batchSize: 0 })).toThrow("`batchSize` must be a positive integer, got 0");
    expect(() => new DataLoader(pixels(3), { batchSize: 4, dropLast: true })).toThrow("3 pictures make no batch of 4");
    const loader = new DataLoader(pixels(8), { batchSize: 4 });
    expect(() => loader.seek(0, 2)).toThrow("an epoch has batches 0 … 1");
    expect(() => loader.restore({ ...loader.state(), batchSize: 5 })).toThrow("batchSize 5, this one 4");
  });
});
