import { describe, expect, test } from "vitest";
import { memorySource, openCheckpoint, sparseEntries, writeCheckpoint } from "../../src/checkpoint/index.ts";
import { Tensor, type TensorSource } from "../../src/tensor/index.ts";

const weight = Tensor.float32(
  [4, 10],
  Float64Array.from({ length: 40 }, (_, i) => (i % 9 === 2 ? i - 21 : 0)),
);
const dense = new Map<string, TensorSource>([
  ["fc.weight", weight],
  ["fc.bias", Tensor.float32([4], [0, 0, 0, 1])],
  ["full.weight", Tensor.float32([2, 2], [1, 2, 0, 4])],
  ["half.weight", weight.cast("float16")],
]);

async function written(entries: ReadonlyMap<string, TensorSource>, metadata: Readonly<Record<string, string>>) {
  const parts: Uint8Array[] = [];
  await writeCheckpoint({ write: async (bytes) => void parts.push(Uint8Array.from(bytes)) }, entries, {
    format: "safetensors",
    metadata,
  });
  return memorySource(new Uint8Array(await new Blob(parts as BlobPart[]).arrayBuffer()), "sparse.safetensors");
}

test("values that are not zero with their places come back as the whole tensors", async () => {
  const { entries, metadata } = sparseEntries(dense);
  expect([...entries].map(([key, { shape }]) => [key, shape])).toEqual([
    ["fc.weight.values", [5]],
    ["fc.weight.indices", [5]],
    ["fc.bias", [4]],
    ["full.weight", [2, 2]],
    ["half.weight.values", [5]],
    ["half.weight.indices", [5]],
  ]);
  using file = await openCheckpoint(await written(entries, metadata));
  expect(file.entries.size).toBe(dense.size);
  for (const [key, source] of dense) {
    const found = await file.entries.get(key)!.read();
    expect([found.dtype, found.shape]).toEqual([source.dtype, source.shape]);
    expect([...found.toFloat64()]).toEqual([...source.readSync().toFloat64()]);
  }
  expect(sparseEntries(new Map([["full.weight", dense.get("full.weight")!]])).metadata).toEqual({});
});

describe("what does not fit together is refused", () => {
  const values = Tensor.float32([2], [1, 2]);
  const indices = Tensor.of("int32", [2], [0, 3]);
  test.for<[string, Record<string, TensorSource>, string]>([
    ["no JSON", { "w.values": values, "w.indices": indices }, "{"],
    ["no shapes", { "w.values": values, "w.indices": indices }, '{"w":[2,-2]}'],
    ["no places", { "w.values": values }, '{"w":[2,2]}'],
    ["fewer places", { "w.values": values, "w.indices": Tensor.of("int32", [1], [0]) }, '{"w":[2,2]}'],
    ["places of another type", { "w.values": values, "w.indices": values }, '{"w":[2,2]}'],
    ["far more values than are stored", { "w.values": values, "w.indices": indices }, '{"w":[65536,65536]}'],
  ])("%s", async ([, entries, sparse]) => {
    const source = await written(new Map(Object.entries(entries)), { sparse });
    await expect(openCheckpoint(source)).rejects.toThrow(/sparse.safetensors: the (metadata "sparse"|sparse tensor w)/);
  });

  test.for([
    [0, 4],
    [3, 3],
    [-1, 2],
  ])("places %o", async (places) => {
    const entries = new Map<string, TensorSource>([
      ["w.values", values],
      ["w.indices", Tensor.of("int32", [2], places)],
    ]);
    using file = await openCheckpoint(await written(entries, { sparse: '{"w":[2,2]}' }));
    await expect(file.entries.get("w")!.read()).rejects.toThrow("must be below 4 and above the one before");
  });
});
