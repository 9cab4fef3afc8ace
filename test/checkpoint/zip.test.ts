import { deflateRawSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { blobSource, memorySource, openCheckpoint } from "../../src/checkpoint/index.ts";
import { runAsync } from "../../src/checkpoint/reading.ts";
import { CollectingSink } from "../../src/checkpoint/sink.ts";
import { crc32, crc32Portable } from "../../src/checkpoint/zip/crc32.ts";
import { readZipDirectory } from "../../src/checkpoint/zip/directory.ts";
import { ZipEntryBytes } from "../../src/checkpoint/zip/entry-bytes.ts";
import { inflateStream } from "../../src/checkpoint/zip/inflate.ts";
import { ZipWriter } from "../../src/checkpoint/zip/writer.ts";
import { rng } from "../../src/tensor/index.ts";
import { concat, failure, fixture, open, pthOf, stateDict, zipOf } from "./support.ts";

const plain = fixture("plain_zip.pth");

/** Offset of the `n`-th place where `signature` stands. */
function find(bytes: Uint8Array, signature: string, n = 0): number {
  let at = -1;
  for (let i = 0; i <= n; i++) at = Buffer.from(bytes).indexOf(Buffer.from(signature, "latin1"), at + 1);
  return at;
}

function patched(bytes: Uint8Array<ArrayBuffer>, at: number, ...values: number[]): Uint8Array<ArrayBuffer> {
  const copy = bytes.slice();
  copy.set(values, at);
  return copy;
}

const CENTRAL = "PK\x01\x02";
const LOCAL = "PK\x03\x04";

describe("zip directories that lie", () => {
  const central = find(plain, CENTRAL, 1); // data/0
  const local = find(plain, LOCAL, 1);
  const end = find(plain, "PK\x05\x06");
  const nested = find(plain, CENTRAL, 3);
  test.for<[string, Uint8Array<ArrayBuffer>]>([
    ["an encrypted entry", patched(plain, central + 8, 1)],
    ["an unknown compression method", patched(plain, central + 10, 12)],
    ["two sizes of a stored entry", patched(plain, central + 24, 0xac)],
    ["a size that reaches into the next entry", patched(plain, central + 20, 0, 4, 0, 0, 0, 4)],
    ["an offset outside the file", patched(plain, central + 42, 0, 0, 0, 0x7f)],
    ["an offset inside another entry", patched(plain, central + 42, 0)],
    ["a name that runs over the end", patched(plain, central + 28, 0xff, 0xff)],
    ["two entries of one name", patched(plain, nested + 46 + "plain_zip/data/".length, "0".charCodeAt(0))],
    ["a local header with another name", patched(plain, local + 30, 0x51)],
    ["a local header with another method", patched(plain, local + 8, 8)],
    ["a local extra field that pushes the data away", patched(plain, local + 28, 0xff)],
    ["no local header", patched(plain, local, 0)],
    ["another number of entries", patched(plain, end + 8, 10, 0, 10)],
    ["another place of the directory", patched(plain, end + 16, 0)],
    ["a zip64 end record that disagrees", patched(plain, find(plain, "PK\x06\x06") + 48, 1)],
    ["a zip64 locator that points nowhere", patched(plain, find(plain, "PK\x06\x07") + 8, 0xff, 0xff, 0xff, 0xff)],
    ["bytes after the end", concat(plain, new Uint8Array(3))],
    ["bytes before the start", concat(Buffer.from("PK\x03\x04"), plain)],
    ["nothing but an end record", plain.slice(end)],
  ])("%s", async ([, bytes]) => {
    expect(await failure(bytes)).toMatchObject({ kind: "file", code: expect.stringMatching(/zip|truncated|not-a-/) });
  });

  test("a file cut anywhere", async () => {
    for (let length = 0; length < plain.length; length += 7)
      expect(await failure(plain.slice(0, length))).toMatchObject({ kind: "file" });
  });
});

describe("archives that are not state dicts", () => {
  test("another zip file, a TorchScript program, a big-endian file", async () => {
    const pickle = Buffer.from(stateDict(), "latin1");
    const says = async (files: Record<string, Uint8Array>) => (await failure(await zipOf(files))).message;
    expect(await says({ "weights.npy": pickle })).toMatchInlineSnapshot(
      `"model.pth: a PyTorch file holds one <name>/data.pkl, this zip file holds 0 (entries: weights.npy). Save a state dict with torch.save."`,
    );
    expect(await says({ "m/data.pkl": pickle, "m/constants.pkl": pickle })).toMatchInlineSnapshot(
      `"model.pth: is a TorchScript program, not a state dict. In Python, torch.save(torch.jit.load(path).state_dict(), …)."`,
    );
    expect(await says({ "m/data.pkl": pickle, "m/byteorder": Buffer.from("big") })).toMatchInlineSnapshot(
      `"model.pth: byteorder: the tensors are "big" endian, only "little" is read. Save again on a little-endian machine."`,
    );
    expect(await says({ "m/data.pkl": pickle, "n/data.pkl": pickle })).toMatchInlineSnapshot(
      `"model.pth: a PyTorch file holds one <name>/data.pkl, this zip file holds 2 (entries: m/data.pkl, n/data.pkl). Save a state dict with torch.save."`,
    );
  });
});

describe("deflated entries", () => {
  /** Turns data/0 of a small file (32 zeros) into a deflated entry that announces `size` bytes. */
  async function deflated(stream: Uint8Array, size: number, crc: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = await zipOf({ "x/data.pkl": Buffer.from(stateDict(), "latin1"), "x/data/0": stream });
    const view = new DataView(bytes.buffer);
    for (const [at, method, sizeAt, crcAt] of [
      [find(bytes, LOCAL, 1), 8, 22, 14],
      [find(bytes, CENTRAL, 1), 10, 24, 16],
    ]) {
      view.setUint16(at + method, 8, true);
      view.setUint32(at + sizeAt, size, true);
      view.setUint32(at + crcAt, crc, true);
    }
    return bytes;
  }
  const zeros = new Uint8Array(32);

  test("inflate and are compared with their checksum", async () => {
    const good = await deflated(deflateRawSync(zeros), 32, crc32(zeros));
    expect((await open(good)).entries.get("w")?.readSync().data).toEqual(new Float32Array(8));
    expect((await failure(await deflated(deflateRawSync(zeros), 32, 1))).code).toBe("checkpoint/crc");
  });

  test.for<[string, Uint8Array, number]>([
    ["shorter than announced", deflateRawSync(new Uint8Array(31)), 32],
    ["longer than announced", deflateRawSync(new Uint8Array(33)), 32],
    ["followed by more", concat(deflateRawSync(zeros), zeros), 32],
    ["not deflated at all", Buffer.alloc(20, 0xff), 32],
    ["cut", deflateRawSync(Buffer.from("some text that takes some bytes")).subarray(0, 9), 32],
  ])("%s", async ([name, stream, size]) => {
    expect((await failure(await deflated(stream, size, crc32(zeros)))).code).toBe("checkpoint/deflate");
    // Whether the platform's stream minds bytes after the end depends on the platform.
    if (name === "followed by more") return;
    await expect(inflateStream({ inflate: new Uint8Array(stream), size, where: "x" })).rejects.toThrow(
      /^x: its deflated|^x: inflates/,
    );
  });

  test("a bomb is refused by what it announces, before anything is inflated", async () => {
    const stream = deflateRawSync(Buffer.alloc(1 << 20));
    const error = await failure(await deflated(stream, 0x7fffffff, 0));
    expect(error).toMatchObject({ code: "checkpoint/limit", message: expect.stringContaining("would inflate from") });
  });

  test("the platform's own stream gives the same as zlib", async () => {
    const text = Buffer.from("repetition, repetition, repetition".repeat(1000));
    const inflated = await inflateStream({
      inflate: new Uint8Array(deflateRawSync(text)),
      size: text.length,
      where: "x",
    });
    expect(Buffer.compare(inflated, text)).toBe(0);
  });
});

test("in a page: a Blob is read by range, asynchronously only", async () => {
  const checkpoint = await openCheckpoint(blobSource(new File([plain], "picked.pth")));
  expect(checkpoint.name).toBe("picked.pth");
  const bias = checkpoint.entries.get("linear.bias")!;
  expect((await bias.read()).data).toEqual((await open(plain)).entries.get("linear.bias")!.readSync().data);
  expect(() => bias.readSync()).toThrow(expect.objectContaining({ code: "tensor/async-only" }));
});

test("CRC-32 in plain JavaScript is zlib's", () => {
  const random = rng(1);
  for (const length of [0, 1, 7, 8, 9, 64, 1000]) {
    const bytes = Uint8Array.from({ length }, () => random.below(256));
    expect(crc32Portable(bytes)).toBe(crc32(bytes));
    expect(crc32Portable(bytes, 123456789)).toBe(crc32(bytes, 123456789));
  }
});

test("opening reads descriptions only, and a view of a large storage no more than it needs", async () => {
  const pickle = stateDict().replaceAll("K\x08tQ", "J\x00\x00\x00\x04tQ");
  const bytes = await zipOf({ "x/data.pkl": Buffer.from(pickle, "latin1"), "x/data/0": new Uint8Array(2 ** 28) });
  const ranges: number[] = [];
  const source = memorySource(bytes, "large.pth");
  const counting = {
    ...source,
    readSync: (offset: number, length: number) => {
      ranges.push(length);
      return source.readSync!(offset, length);
    },
    read: (offset: number, length: number) => Promise.resolve(counting.readSync(offset, length)),
  };
  const checkpoint = await openCheckpoint(counting);
  const opening = ranges.reduce((n, length) => n + length, 0);
  expect(opening).toBeLessThan(300_000);
  checkpoint.entries.get("w")?.readSync();
  expect(Math.max(...ranges)).toBeLessThan(300_000);
  ranges.length = 0;
  checkpoint.entries.get("w")?.readSync(); // the checksum is known now
  expect(ranges).toEqual([32]);
});

test("more than four gigabytes: zip64 sizes and offsets", async () => {
  const zeros = new Uint8Array(2 ** 26);
  const small = Uint8Array.of(1, 2, 3);
  // The zeros are not kept: what is written of them is only counted.
  const kept: { offset: number; bytes: Uint8Array }[] = [];
  let size = 0;
  const sink = new CollectingSink({
    write(chunk) {
      if (chunk.length < zeros.length) kept.push({ offset: size, bytes: chunk.slice() });
      size += chunk.length;
    },
  });
  const zip = new ZipWriter(sink);
  const pieces = () => Array.from({ length: 65 }, () => zeros);
  await zip.add("large", { length: 65 * zeros.length, pieces });
  await zip.add("after", { length: small.length, pieces: () => [small] });
  await zip.finish();
  await sink.flush();
  const read = (offset: number, length: number) => {
    const bytes = new Uint8Array(length);
    for (const part of kept)
      if (part.offset < offset + length && part.offset + part.bytes.length > offset)
        for (let i = 0; i < length; i++) bytes[i] = part.bytes[offset + i - part.offset] ?? 0;
    return Promise.resolve(bytes);
  };
  const source = { name: "large.zip", size, read };
  const entries = await runAsync(source, readZipDirectory(source));
  expect([...entries.values()].map((e) => [e.name, e.size])).toEqual([
    ["large", 65 * 2 ** 26],
    ["after", 3],
  ]);
  const after = new ZipEntryBytes(source, entries.get("after")!, "check");
  expect(await runAsync(source, after.range("x", 0, 3))).toEqual(small);
  const large = new ZipEntryBytes(source, entries.get("large")!, "ignore");
  expect(await runAsync(source, large.range("x", 2 ** 32 + 5, 2))).toEqual(Uint8Array.of(0, 0));
});

test("a storage is found by its key only", async () => {
  const wrongKey = (await pthOf(stateDict())).slice();
  for (let n = 0; n < 2; n++) wrongKey.set([0x37], find(wrongKey, "x/data/0") + "x/data/".length);
  expect((await failure(wrongKey)).code).toBe("checkpoint/missing-storage");
});
