import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ConvBn, RepMLP, RepVGGBlock } from "../../src/blocks/index.ts";
import { openCheckpointFile, saveCheckpointFile } from "../../src/checkpoint/node/index.ts";
import type { Module } from "../../src/nn/index.ts";
import { deployForm } from "../../src/reparam/index.ts";
import { scaledColumns, scaledRows } from "../../src/reparam/rows.ts";
import { type DType, Tensor, tensorBytes } from "../../src/tensor/index.ts";
import { withRandomState } from "./support.ts";

const joined = async (pieces: AsyncIterable<Uint8Array>): Promise<{ bytes: Buffer; sizes: number[] }> => {
  const parts: Buffer[] = [];
  // A piece is only valid until the next one, so it is copied.
  for await (const piece of pieces) parts.push(Buffer.from(piece));
  return { bytes: Buffer.concat(parts), sizes: parts.map((p) => p.length) };
};

/** Puts a file behind a model's parameters, which pieces are then read from. */
async function throughAFile(model: Module, format: "pth" | "safetensors"): Promise<void> {
  const path = join(mkdtempSync(join(tmpdir(), "repmlp-rows-")), `state.${format}`);
  await saveCheckpointFile(path, model.stateDict());
  model.loadStateDict((await openCheckpointFile(path)).entries);
}

describe("merged weights in pieces", () => {
  const blocks = [
    [
      "RepMLP",
      () =>
        new RepMLP({
          inChannels: 6,
          outChannels: 4,
          height: 6,
          width: 10,
          partition: [3, 5],
          reparamConvKernels: [1, 5],
          groups: 2,
        }),
    ],
    [
      "RepMLP of several pieces",
      () => new RepMLP({ inChannels: 16, height: 14, width: 14, partition: 7, reparamConvKernels: [1, 3], groups: 2 }),
    ],
    ["RepMLP without local kernels", () => new RepMLP({ inChannels: 3, height: 4, width: 4, partition: 4 })],
    ["convolution", () => new ConvBn(3, 7, { kernelSize: 5 })],
    ["RepVGG block of several pieces", () => new RepVGGBlock({ inChannels: 192, outChannels: 192, groups: 2 })],
  ] as const;

  test.for(
    blocks.flatMap(([name, make]) => (["pth", "safetensors"] as const).map((format) => ({ name, make, format }))),
  )("are the bytes of the whole tensor: $name from $format", async ({ name, make, format }) => {
    const model = withRandomState<Module>(make()).eval();
    await throughAFile(model, format);
    let most = 0;
    for (const [key, p] of deployForm<Module>(model).state()) {
      const source = p.source();
      if (!source.pieces) continue;
      const { bytes, sizes } = await joined(source.pieces());
      expect(bytes.equals(tensorBytes(await source.read())), key).toBe(true);
      most = Math.max(most, sizes.length);
    }
    expect(most).toBeGreaterThan(name.includes("several") ? 1 : 0);
  });

  test.for(["float64", "float16", "bfloat16"] as DType[])("and so in %s", async (dtype) => {
    const model = withRandomState(new ConvBn(3, 7, { kernelSize: 5 })).eval();
    const [conv, bn] = [model.conv, model.bn!];
    Object.assign(conv, { weight: conv.weight.to(dtype) });
    await throughAFile(model, "safetensors");
    const weight = deployForm(model).conv.weight.source();
    expect(weight.dtype).toBe(dtype);
    const { bytes } = await joined(weight.pieces!());
    const whole = await weight.read();
    expect(bytes.equals(tensorBytes(whole))).toBe(true);
    // Scaled in float64 and rounded once: equal to the definition to the last bit.
    const [w, g, v] = [conv.weight, bn.weight, bn.runningVar].map((p) => p.data.toFloat64());
    const columns = w.length / g.length;
    const exact = w.map((x, i) => x * (g[Math.floor(i / columns)] / Math.sqrt(v[Math.floor(i / columns)] + bn.eps)));
    expect(whole).toEqual(whole.dtype === "float64" ? whole.map((_, i) => exact[i]) : castOf(exact, whole));
  });
});

const castOf = (values: Float64Array<ArrayBuffer>, like: { dtype: DType; shape: readonly number[] }) =>
  new Tensor("float64", like.shape, values).cast(like.dtype);

describe("maps of rows", () => {
  test("rows and columns, from any row on, for lengths that four does not divide", () => {
    const w = Float64Array.from({ length: 3 * 7 }, (_, i) => i + 1);
    const out = new Float64Array(w.length);
    scaledRows(Float64Array.of(9, 9, 2, 3, 5), 7)(w, 2, out);
    expect([...out]).toEqual([...w].map((v, i) => v * [2, 3, 5][Math.floor(i / 7)]));
    scaledColumns(Float64Array.of(2), 7)(w, 0, out);
    expect([...out]).toEqual([...w].map((v) => 2 * v));
    scaledColumns(Float64Array.of(1, 2, 3, 4, 5, 6, 7), 1)(w, 1, out);
    expect([...out]).toEqual([...w].map((v, i) => v * ((i % 7) + 1)));
  });
});
