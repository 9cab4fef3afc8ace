import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { checksumsInThread } from "../../src/checkpoint/node/crc32-thread.ts";
import { allFinite, asWeights } from "../../src/checkpoint/weights.ts";
import { mustBeFinite } from "../../src/inference/finite-outputs.ts";
import { openCheckpointFile, saveCheckpointFile } from "../../src/node.ts";
import { Tensor, type TensorSource } from "../../src/tensor/index.ts";
import { randomTensor } from "../reparam/support.ts";
import { inputShape, small } from "./nets.ts";

const folder = mkdtempSync(join(tmpdir(), "weights-"));
const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
const types = ["float32", "float64", "float16", "bfloat16"] as const;

describe("values that are not finite", () => {
  test.for(types)("of %s are told from all others, wherever they stand", (dtype) => {
    const largest = { float32: 3.4e38, float64: 1.7e308, float16: 65504, bfloat16: 3.3e38 }[dtype];
    const values = [0, -0, 1, -1, largest, -largest, 6e-8, -6e-8, 0.1];
    expect(allFinite(Tensor.of(dtype, [9], values))).toBe(true);
    for (const bad of [nan, inf, -inf])
      for (let i = 0; i < values.length; i++) expect(allFinite(Tensor.of(dtype, [9], values.with(i, bad)))).toBe(false);
  });

  const bad: readonly (readonly [key: string, value: number, says: RegExp])[] = [
    ["linear.bias", nan, /tensor "linear.bias" is not finite: its value at \[2\] is NaN/],
    ["rep0.fc3.weight", inf, /tensor "rep0.fc3.weight" is not finite: its value at \[0, 2, 0, 0\] is Infinity/],
    [
      "rep1.fc3_bn.running_mean",
      -inf,
      /tensor "rep1.fc3_bn.running_mean" is not finite: its value at \[2\] is -Infinity/,
    ],
    ["stem.bn.running_var", nan, /tensor "stem.bn.running_var" is not finite/],
    ["stem.bn.running_var", -0.5, /tensor "stem.bn.running_var" is a variance below 0: its value at \[2\] is -0.5/],
  ];
  for (const format of ["pth", "safetensors"] as const)
    test.for(bad)(`${format}: %s %s is named by every way of reading`, async ([key, value, says]) => {
      const path = join(folder, `bad.${format}`);
      const state = [...small().stateDict()].map(
        ([k, t]) => [k, k === key ? t.readSync().map((v, i) => (i === 2 ? value : v)) : t] as const,
      );
      await saveCheckpointFile(path, state);
      using checkpoint = await openCheckpointFile(path);
      const source = asWeights(path, checkpoint.entries).get(key)!;
      await expect(source.read()).rejects.toThrow(says);
      expect(() => source.readSync()).toThrow(says);
      const pieces = async (): Promise<void> => {
        for await (const _ of source.pieces!());
      };
      await expect(pieces()).rejects.toThrow(says);
      // Variances are few: nobody maps them.
      if (await source.place?.()) await expect((await checksumsInThread([source])).done).rejects.toThrow(says);
      expect(() => small().loadStateDict(asWeights(path, checkpoint.entries))).not.toThrow();
    });

  test("the rest of the file is read as it is", async () => {
    const path = join(folder, "good.pth");
    await saveCheckpointFile(path, small().stateDict());
    using checkpoint = await openCheckpointFile(path);
    const weights = asWeights(path, checkpoint.entries);
    for (const [key, t] of checkpoint.entries)
      expect((await weights.get(key)!.read()).data).toEqual((await t.read()).data);
    await (await checksumsInThread(weights.values())).done;
  });
});

describe("integers in place of weights", () => {
  test.for(["int8", "uint8", "int32", "int64", "bool"] as const)("%s is refused with the key", (dtype) => {
    const entries = new Map<string, TensorSource>(small().stateDict());
    entries.set("rep1.fc3.weight", Tensor.zeros(dtype, entries.get("rep1.fc3.weight")!.shape));
    expect(() => asWeights("net.pth", entries)).toThrow(
      `net.pth: tensor "rep1.fc3.weight" is ${dtype}; weights must be floating-point. Give the unquantized checkpoint.`,
    );
  });

  test("counters are integers", () => {
    const entries = new Map<string, TensorSource>([["bn.num_batches_tracked", Tensor.scalar(3, "int64")]]);
    expect(asWeights("net.pth", entries)).toEqual(entries);
  });
});

test("outputs beyond the element type are refused with the first layer that makes them", async () => {
  const model = small();
  const images = randomTensor([3, ...inputShape], "pictures");
  const output = Tensor.float32([3, 3], [1, 2, 3, inf, 2, 3, 1, 2, 3]);
  await mustBeFinite(Tensor.zeros("float32", [3, 3]), "net.pth", images, model);
  await expect(mustBeFinite(output, "net.onnx", images)).rejects.toThrow("net.onnx: the network's output is Infinity.");
  const weight = model.rep1.fc3.weight;
  weight.set(weight.data.map(() => 3e38));
  await expect(mustBeFinite(output, "net.pth", images, model)).rejects.toThrow(/layer rep1\.fc3 is the first/);
});
