import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cifar10FromBytes, PixelDataset, readIdx, sampleDataset, subset } from "../../src/data/index.ts";
import { cifar10, fashionMnist, fashionMnistSmall } from "../../src/data/node/index.ts";

const idx = (shape: readonly number[], data: Iterable<number>): Uint8Array<ArrayBuffer> => {
  const header = new Uint8Array(4 + 4 * shape.length);
  const view = new DataView(header.buffer);
  header[2] = 8;
  header[3] = shape.length;
  shape.forEach((size, axis) => {
    view.setUint32(4 + 4 * axis, size);
  });
  return Uint8Array.from([...header, ...data]);
};
const gz = (bytes: Uint8Array): Uint8Array<ArrayBuffer> => Uint8Array.from(gzipSync(bytes));

describe("IDX", () => {
  const good = idx([2, 3, 5], Array(30).keys());

  test.for([
    { name: "raw", bytes: good },
    { name: "gzipped", bytes: gz(good) },
  ])("reads $name", async ({ bytes }) => {
    expect(await readIdx(bytes, "x.idx")).toEqual({ shape: [2, 3, 5], data: Uint8Array.from(Array(30).keys()) });
  });

  test.for([
    { name: "empty file", bytes: new Uint8Array(0), code: "idx/truncated" },
    { name: "cut header", bytes: good.slice(0, 9), code: "idx/truncated" },
    { name: "cut header, gzipped", bytes: gz(good.slice(0, 9)), code: "idx/truncated" },
    { name: "cut record", bytes: good.slice(0, -1), code: "idx/truncated" },
    { name: "cut record, gzipped", bytes: gz(good.slice(0, -1)), code: "idx/truncated" },
    { name: "too long", bytes: Uint8Array.from([...good, 1]), code: "idx/size" },
    { name: "too long, gzipped", bytes: gz(Uint8Array.from([...good, 1])), code: "idx/size" },
    { name: "another format", bytes: new TextEncoder().encode("\x89PNG\r\n"), code: "idx/magic" },
    { name: "floats", bytes: Uint8Array.from([0, 0, 13, 1, 0, 0, 0, 0]), code: "idx/type" },
    { name: "cut gzip", bytes: gz(good).slice(0, 30), code: "idx/gzip" },
    { name: "a header that promises 2^96 bytes", bytes: gz(idx(Array(3).fill(2 ** 32 - 1), [])), code: "idx/size" },
    {
      name: "a bomb: 8 MB of zeros behind a small header",
      bytes: gz(idx([1], new Uint8Array(2 ** 23))),
      code: "idx/size",
    },
  ])("refuses $name", async ({ bytes, code }) => {
    await expect(readIdx(bytes, "x.idx")).rejects.toMatchObject({ code, message: expect.stringContaining("x.idx") });
  });
});

describe("the pictures that come with the package", () => {
  test.for([
    { split: "train", length: 6000, perClass: 600 },
    { split: "test", length: 1000, perClass: 100 },
  ] as const)("$split: $length pictures, balanced", async ({ split, length, perClass }) => {
    const data = await fashionMnistSmall(split);
    const counts = Array<number>(10).fill(0);
    for (const label of data.labels) counts[label]++;
    expect(data).toMatchObject({ length, imageShape: [1, 28, 28] });
    expect(counts).toEqual(Array(10).fill(perClass));
    const mean = data.pixels.reduce((sum, p) => sum + p, 0) / data.pixels.length / 255;
    // The mean over all 60,000 training pictures is 0.28604.
    expect(Math.abs(mean - 0.28604)).toBeLessThan(0.01);
  });
});

describe("CIFAR-10", () => {
  const record = (label: number, fill: number): number[] => [label, ...Array<number>(3072).fill(fill)];
  const bytes = (...records: number[][]): Uint8Array<ArrayBuffer> => Uint8Array.from(records.flat());
  let folder = "";
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "cifar-"));
    await writeFile(join(folder, "data_batch_1.bin"), bytes(record(3, 0), record(9, 255)));
    await writeFile(join(folder, "data_batch_2.bin.br"), brotliCompressSync(bytes(record(1, 51))));
    await writeFile(join(folder, "data_batch_2.bin"), bytes(record(1, 51)));
    await writeFile(join(folder, "data_batch_3.bin.br"), brotliCompressSync(bytes(record(2, 51))));
    await writeFile(join(folder, "readme.html"), "");
  });
  afterAll(() => rm(folder, { recursive: true }));

  test("joins the files of a split, packed or not, each once", async () => {
    const data = await cifar10(folder, "train", { mean: [0, 0, 0.5], std: [1, 1, 0.5] });
    expect([...data.labels]).toEqual([3, 9, 1, 2]);
    const { images, labels } = await data.batch([1, 2]);
    expect(images.shape).toEqual([2, 3, 32, 32]);
    expect([...labels]).toEqual([9, 1]);
    const at = (n: number, c: number): number => images.data[(n * 3 + c) * 1024 + 7] as number;
    expect([at(0, 0), at(0, 2), at(1, 1), at(1, 2)]).toEqual([1, 1, 0.2, -0.6].map(Math.fround));
  });

  test("says what a folder without the split holds", async () => {
    await expect(cifar10(folder, "test")).rejects.toMatchObject({
      code: "data/missing",
      message: expect.stringMatching(/no test_batch\.bin .*holds data_batch_1\.bin/),
    });
  });

  test("names file and record", () => {
    const file = (contents: Uint8Array<ArrayBuffer>) => [{ name: "data_batch_7.bin", bytes: contents }];
    expect(() => cifar10FromBytes(file(bytes(record(0, 0), record(10, 0))))).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: data_batch_7.bin: record 1 has label 10, but there are 10 classes (0 … 9)]`,
    );
    expect(() => cifar10FromBytes(file(bytes(record(0, 0)).slice(0, -1)))).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: data_batch_7.bin: 3072 bytes are not whole records of 3073: record 0 is cut short. Download the binary version of CIFAR-10 again]`,
    );
  });
});

describe("a pair of IDX files", () => {
  const folderWith = async (images: Uint8Array, labels: Uint8Array): Promise<string> => {
    const folder = await mkdtemp(join(tmpdir(), "idx-"));
    await writeFile(join(folder, "train-images-idx3-ubyte"), images);
    await writeFile(join(folder, "train-labels-idx1-ubyte.gz"), gzipSync(labels));
    return folder;
  };
  const pictures = idx([2, 3, 5], Array(30).keys());

  test("becomes a data set", async () => {
    const data = await fashionMnist(await folderWith(pictures, idx([2], [4, 9])), "train", { mean: [0], std: [1] });
    expect(data).toMatchObject({ length: 2, imageShape: [1, 3, 5] });
    const { images } = await data.batch([1]);
    expect(images.data).toEqual(Float32Array.from({ length: 15 }, (_, i) => Math.fround((15 + i) / 255)));
  });

  test.for([
    { name: "another number of labels", labels: idx([3], [1, 2, 3]), code: "idx/pair", says: "2 pictures" },
    { name: "a label out of range", labels: idx([2], [1, 10]), code: "data/label", says: "record 1 has label 10" },
    { name: "pictures for labels", labels: pictures, code: "idx/rank", says: "Is it the file of the pictures" },
  ])("$name is named", async ({ labels, code, says }) => {
    await expect(fashionMnist(await folderWith(pictures, labels), "train")).rejects.toMatchObject({
      code,
      message: expect.stringContaining(says),
    });
  });
});

describe("own data sets", () => {
  const data = sampleDataset({
    length: 5,
    classes: ["even", "odd"],
    imageShape: [1, 2, 3],
    sample: (i) => ({ image: new Float32Array(i === 4 ? 7 : 6).fill(i), label: i === 3 ? 2 : i % 2 }),
  });

  test("a function per picture is enough", async () => {
    const { images, labels } = await subset(data, [2, 1, 0]).batch([1, 0]);
    expect(images.shape).toEqual([2, 1, 2, 3]);
    expect([...images.data]).toEqual([1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
    expect([...labels]).toEqual([1, 0]);
  });

  test.for([
    { name: "a picture of another size", index: 4, says: "sample 4 has 7 values" },
    { name: "a label that is no class", index: 3, says: "sample 3 has label 2" },
    { name: "an index past the end", index: 5, says: "index 5 is outside 0 … 4" },
    { name: "a fraction", index: 0.5, says: "index 0.5" },
  ])("$name is an error", async ({ index, says }) => {
    await expect(data.batch([index])).rejects.toThrow(says);
  });

  test("a normalisation that does not fit the channels is an error", () => {
    const options = { pixels: new Uint8Array(12), labels: new Uint8Array(1), classes: ["a"], mean: [0], std: [1] };
    expect(() => new PixelDataset({ ...options, imageShape: [3, 2, 2] })).toThrow("3 channels");
  });
});
