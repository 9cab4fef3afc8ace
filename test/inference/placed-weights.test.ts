import { copyFile, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  createModel,
  deployForm,
  exportOnnx,
  type Net,
  openCheckpointFile,
  openClassifier,
  Predictor,
  rng,
  saveCheckpointFile,
  saveOnnx,
  Tensor,
} from "../../src/node.ts";
import { sizeOf, tensorBytes } from "../../src/tensor/index.ts";

const arch = "RepMLP-Mixer-28";
const images = Tensor.float32(
  [3, 1, 28, 28],
  Float32Array.from({ length: 3 * 28 * 28 }, (_, i) => Math.sin(i)),
);
let folder: string;
let expected: Tensor;

/** The network in a file, made the first time. */
const fileOf = (ending: string): string => join(folder, `net.${ending}`);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "placed-"));
  const net = randomNet();
  const options = { inputShape: [1, 28, 28], batchSize: 2 };
  // Values in memory: what lies in files must come to the same bits.
  const predictor = await Predictor.create(net, options);
  expected = await predictor.run(images);
  for (const ending of ["pth", "safetensors"]) await saveCheckpointFile(fileOf(ending), net.stateDict());
  const { model } = await exportOnnx(net, {
    ...options,
    metadata: { arch, preprocessing: (await openClassifier(fileOf("pth"))).preprocessing },
    check: false,
  });
  await saveOnnx(fileOf("onnx"), model);
  await saveOnnx(fileOf("apart.onnx"), model, { external: true });
});
afterAll(() => rm(folder, { recursive: true, force: true }));

function randomNet(): Net {
  const net = createModel(arch).eval().initialize(7);
  const random = rng(3, "statistics");
  for (const [key, p] of net.state())
    if (key.endsWith("running_var") || key.endsWith("running_mean"))
      p.set(
        Tensor.float32(
          p.shape,
          Float32Array.from({ length: p.shape[0] }, () => 0.5 + random.next()),
        ),
      );
  return deployForm(net);
}

async function logitsOf(path: string, then: () => Promise<void> = async () => {}): Promise<Tensor> {
  const classifier = await openClassifier(path);
  const compiled = await classifier.compile({ batchSize: 2 });
  classifier.close();
  await then();
  const logits = await compiled.run(images);
  await compiled.dispose();
  return logits;
}

describe("networks whose weights stay in their file", () => {
  test.for(["pth", "safetensors"])("compute what those in memory do: .%s", async (ending) => {
    expect(await logitsOf(fileOf(ending))).toEqual(expected);
  });

  test.for(["onnx", "apart.onnx"])("compute what those in memory do, but for rounding: .%s", async (ending) => {
    const { shape, data } = await logitsOf(fileOf(ending));
    expect(shape).toEqual(expected.shape);
    for (const [i, value] of data.entries()) expect(value).toBeCloseTo(Number(expected.data[i]), 4);
  });

  test.for(["pth", "safetensors", "onnx"])("do not need the file any more: .%s", async (ending) => {
    const path = join(folder, `gone.${ending}`);
    await copyFile(fileOf(ending), path);
    expect((await logitsOf(path, () => rm(path))).shape).toEqual(expected.shape);
  });

  test("are found behind a link into another folder", async () => {
    const elsewhere = await mkdtemp(join(tmpdir(), "placed-"));
    await symlink(fileOf("pth"), join(elsewhere, "link.pth"));
    expect(await logitsOf(join(elsewhere, "link.pth"))).toEqual(expected);
    await rm(elsewhere, { recursive: true });
  });

  test("are refused when a byte is not what the checksum says", async () => {
    const bytes = await readFile(fileOf("pth"));
    const { entries } = await openCheckpointFile(fileOf("pth"));
    const [largest] = [...entries.values()].sort((a, b) => sizeOf(b.shape) - sizeOf(a.shape));
    const at = bytes.indexOf(tensorBytes(await largest.read()));
    expect(at).toBeGreaterThan(0);
    bytes[at + 5] ^= 1;
    const path = join(folder, "damaged.pth");
    await writeFile(path, bytes);
    await expect(logitsOf(path)).rejects.toMatchObject({
      code: "checkpoint/crc",
      kind: "file",
      message: expect.stringMatching(/damaged\.pth: tensor ".*" has CRC-32|zip entry/),
    });
  });
});
