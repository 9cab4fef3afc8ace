import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { convertCheckpointFile } from "../../src/convert/node/checkpoint-file.ts";
import { countMacs, type Net } from "../../src/nn/index.ts";
import {
  createModel,
  OnnxNet,
  openCheckpointFile,
  openModelFile,
  openOnnx,
  Predictor,
  pruneFile,
  Tensor,
} from "../../src/node.ts";
import { type PrunableFiles, prunableFiles } from "./files.ts";

let files: PrunableFiles;
const at = (name: string): string => files.at(name);
const arch = "Cifar-quick-RepVGG";
const size = [3, 32, 32] as const;
const x = Tensor.float32(
  [2, ...size],
  Float64Array.from({ length: 6144 }, (_, i) => Math.sin(i)),
);

async function outputOf(net: Net): Promise<number[]> {
  const predictor = await Predictor.create(net.eval(), { inputShape: size, batchSize: 2 });
  const y = [...(await predictor.run(x)).toFloat64()];
  await predictor.dispose();
  return y;
}

function expectNear(found: readonly number[], expected: readonly number[]): void {
  const scale = Math.max(...expected.map(Math.abs));
  expect(found.length).toBe(expected.length);
  for (const [i, v] of expected.entries()) expect(Math.abs(found[i] - v) / scale).toBeLessThan(2e-5);
}

beforeAll(async () => {
  files = await prunableFiles(arch);
});
afterAll(() => files.remove());

describe("a pruned checkpoint", () => {
  test.for(["safetensors", "pth"])("as .%s opens again, is pruned further, and merges", async (format) => {
    const file = at(`half.${format}`);
    const result = await pruneFile(at("whole.safetensors"), file, { flops: 0.5 });
    expect(result.macs[1]).toBeLessThanOrEqual(0.5 * result.macs[0]);
    expect(result.parameters[1]).toBeLessThan(result.parameters[0]);
    using half = await openModelFile(file);
    expect(half.arch).toBe(arch);
    expect(countMacs(half.net, [1, ...size])).toBe(result.macs[1]);

    expect(result.again).toBe(false);
    expect((await pruneFile(file, at("third.safetensors"), { flops: 0.8 })).again).toBe(true);
    using third = await openModelFile(at("third.safetensors"));
    expect(countMacs(third.net, [1, ...size])).toBeLessThanOrEqual(0.8 * result.macs[1]);

    const deploy = at("deploy.safetensors");
    await convertCheckpointFile(file, deploy);
    using merged = await openModelFile(deploy);
    expect(merged.form).toBe("deploy");
    expectNear(await outputOf(merged.net), await outputOf(half.net));
    await expect(pruneFile(deploy, at("again.safetensors"), { flops: 0.5 })).rejects.toThrow("holds a merged network");
  });

  test("states sizes that the network can have", () => {
    expect(() => createModel(arch, { prunedShapes: { "conv9.weight": [1] } })).toThrow(
      "option prunedShapes: conv9.weight is to be [1], which the network does not have",
    );
    expect(() => createModel(arch, { prunedShapes: "narrow" as never })).toThrow(
      "option prunedShapes must be sizes by the keys",
    );
    const [[key, { shape }]] = [...createModel(arch).state()];
    expect(() => createModel(arch, { prunedShapes: { [key]: shape.map((d) => d + 1) } })).toThrow(
      "in the whole network",
    );
  });
});

test("a pruned ONNX model has the smaller shapes", async () => {
  const result = await pruneFile(at("whole.onnx"), at("half.onnx"), { flops: 0.5, method: "random", seed: 4 });
  expect(result.arch).toBeUndefined();
  const net: Net = new OnnxNet(await openOnnx(at("half.onnx")));
  expect(countMacs(net, [1, ...size])).toBe(result.macs[1]);
  expect((await outputOf(net)).every(Number.isFinite)).toBe(true);
});

test("a checkpoint does not become an ONNX model on the way", async () => {
  await expect(pruneFile(at("whole.safetensors"), at("half.onnx"), { flops: 0.5 })).rejects.toThrow(
    "an ONNX model stays one, a checkpoint too",
  );
  expect((await openCheckpointFile(at("whole.safetensors"))).entries.size).toBeGreaterThan(0);
});
