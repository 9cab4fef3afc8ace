import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cifar10FromBytes, type PixelDataset } from "../../src/data/index.ts";
import { cifar10 } from "../../src/data/node/index.ts";

const path = (name: string): string => fileURLToPath(new URL(`../fixtures/cifar/${name}`, import.meta.url));
const bytesOf = (name: string): Uint8Array<ArrayBuffer> => Uint8Array.from(readFileSync(path(name)));
const read = (bytes: Uint8Array<ArrayBuffer>): PixelDataset => cifar10FromBytes([{ name: "data_batch_7", bytes }]);
const original = bytesOf("cifar-10-batches-py/data_batch_1");

/** The original with the one place that holds `from` changed; both are Latin-1. */
function changed(from: string, to: string): Uint8Array<ArrayBuffer> {
  const parts = Buffer.from(original).toString("latin1").split(from);
  expect(parts, `one ${JSON.stringify(from)}`).toHaveLength(2);
  return Uint8Array.from(Buffer.from(parts.join(to), "latin1"));
}

describe("equals the binary version", () => {
  test.for([
    ["cifar-10-batches-py/data_batch_1", "binary/data_batch_1.bin"],
    ["cifar-10-batches-py/test_batch", "binary/test_batch.bin"],
    ["python3-protocol2", "binary/data_batch_1.bin"],
    ["python3-protocol5", "binary/data_batch_1.bin"],
    ["python3-numpy2-protocol4", "binary/data_batch_1.bin"],
  ])("%s", ([pickled, binary]) => {
    const [a, b] = [read(bytesOf(pickled)), read(bytesOf(binary))];
    expect(a.labels).toEqual(b.labels);
    expect(Buffer.compare(a.pixels, b.pixels)).toBe(0);
  });
});

describe("a folder", () => {
  let parent = "";
  beforeAll(async () => {
    parent = await mkdtemp(join(tmpdir(), "cifar-py-"));
    const folder = join(parent, "cifar-10-batches-py");
    await mkdir(folder);
    await writeFile(join(folder, "data_batch_1"), original);
    await writeFile(join(folder, "data_batch_2.gz"), gzipSync(bytesOf("python3-protocol5")));
    await writeFile(join(folder, "test_batch"), bytesOf("cifar-10-batches-py/test_batch"));
    await writeFile(join(folder, "batches.meta"), "");
  });
  afterAll(() => rm(parent, { recursive: true }));

  test("or its parent, by split", async () => {
    for (const folder of [parent, join(parent, "cifar-10-batches-py")]) {
      expect([...(await cifar10(folder, "train")).labels]).toEqual([6, 9, 6, 9]);
      expect([...(await cifar10(folder, "test")).labels]).toEqual([3]);
    }
  });

  test("with both versions is read in the binary one", async () => {
    const folder = join(parent, "both");
    await mkdir(folder);
    await writeFile(join(folder, "data_batch_1"), "not read");
    await writeFile(join(folder, "data_batch_1.bin"), bytesOf("binary/data_batch_1.bin"));
    expect([...(await cifar10(folder, "train")).labels]).toEqual([6, 9]);
  });
});

describe("refuses", () => {
  const cut = original.slice(0, 3000);
  const [labels, call, dtype] = ["](K\x06K\x09e", "cnumpy.core.multiarray\n_reconstruct\n", "U\x02u1"]
    // The memo's instructions lie in between.
    .map((part) => part.replace("](", "]q\x04("));
  test.for([
    {
      name: "a label that is no class",
      bytes: () => changed(labels, "]q\x04(K\x06K\x0ae"),
      code: "data/label",
      says: "record 1 has label 10",
    },
    {
      name: "a negative label",
      bytes: () => changed(labels, "]q\x04(J\xff\xff\xff\xffK\x09e"),
      code: "data/label",
      says: "record 0 has label -1",
    },
    {
      name: "a label beyond a byte",
      bytes: () => changed(labels, "]q\x04(K\x06M\x09\x01e"),
      code: "data/label",
      says: "record 1 has label 265",
    },
    {
      name: "a label that is no number",
      bytes: () => changed(labels, "]q\x04(K\x06Ne"),
      code: "cifar/batch",
      says: "record 1 is None",
    },
    {
      name: "too few labels",
      bytes: () => changed(labels, "]q\x04(K\x06e"),
      code: "cifar/batch",
      says: "2 pictures, but 1 labels",
    },
    {
      name: "another shape",
      bytes: () => changed("K\x02M\x00\x0c\x86", "K\x06M\x00\x04\x86"),
      code: "cifar/batch",
      says: "shape [6, 1024], not [N, 3072]",
    },
    {
      name: "a shape with more pictures",
      bytes: () => changed("K\x02M\x00\x0c\x86", "K\x03M\x00\x0c\x86"),
      code: "cifar/batch",
      says: "6144 bytes for 3 pictures",
    },
    {
      name: "another dtype",
      bytes: () => changed(dtype, "U\x02i1"),
      code: "cifar/batch",
      says: "not an array of uint8",
    },
    {
      name: "column-major order",
      bytes: () => changed("b\x89T\x00\x18", "b\x88T\x00\x18"),
      code: "cifar/batch",
      says: "row-major",
    },
    {
      name: "no pictures",
      bytes: () => changed("U\x04data", "U\x04dota"),
      code: "cifar/batch",
      says: '0 items "data"',
    },
    {
      name: "the wrong kind of pickle",
      bytes: () => Uint8Array.from(Buffer.from("\x80\x02].", "latin1")),
      code: "cifar/batch",
      says: "a list of 0",
    },
    { name: "a cut file", bytes: () => cut, code: "checkpoint/truncated", says: "truncated or damaged" },
    {
      name: "bytes after the end",
      bytes: () => Uint8Array.from([...original, 0]),
      code: "cifar/batch",
      says: "1 bytes follow",
    },
    {
      name: "a damaged instruction",
      bytes: () => changed("}q\x00(", "}q\x00\xff"),
      code: "checkpoint/pickle",
      says: "not a batch of CIFAR-10",
    },
    {
      name: "an unknown callable",
      bytes: () => changed(call, "cos\nsystem\n"),
      code: "cifar/refused",
      says: "os.system",
    },
    {
      name: "another function of numpy",
      bytes: () => changed(call, "cnumpy\nload\n"),
      code: "cifar/refused",
      says: "numpy.load",
    },
    {
      name: "a class as a function",
      bytes: () => changed(call, "cnumpy\nndarray\n"),
      code: "cifar/refused",
      says: "numpy.ndarray",
    },
  ])("$name", ({ bytes, code, says }) => {
    const file = bytes();
    expect(() => read(file)).toThrow(
      expect.objectContaining({ code, kind: "file", message: expect.stringContaining(says) }),
    );
    expect(() => read(file)).toThrow(/^data_batch_7: /);
  });

  test("every other length of the file", () => {
    for (let end = 2; end < original.length; end += end < 220 || end > 6340 ? 1 : 97)
      expect(() => read(original.slice(0, end)), `${end} bytes`).toThrow(/^data_batch_7: /);
  });
});
