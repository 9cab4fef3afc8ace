import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { env, pipeline, RawImage } from "@huggingface/transformers";
import { afterAll, describe, expect, test } from "vitest";
import { imagenetPreprocessing, type Preprocessing, preprocess } from "../../src/data/index.ts";
import { exportHub } from "../../src/export/node/index.ts";
import { Predictor } from "../../src/inference/index.ts";
import { openClassifier } from "../../src/inference/node/index.ts";
import { registerNode } from "../../src/runtime/node/platform.ts";
import { Tensor } from "../../src/tensor/index.ts";
import { smallMixer, smallResnet } from "./nets.ts";

registerNode();
env.allowRemoteModels = false;
const root = mkdtempSync(join(tmpdir(), "hub-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const grey: Preprocessing = { inputSize: [1, 28, 28], resize: [28, 28], mean: [0.3], std: [0.4] };
const size = { width: 28, height: 28 };
/** Pixels `[height, width, channels]` of all brightnesses. */
const pixels = (width: number, height: number, channels: number): Uint8Array =>
  Uint8Array.from({ length: width * height * channels }, (_, i) => (i * 37 + (i >> 3) * 11) % 256);

describe("a hub folder of a network for grey pictures", () => {
  const folder = join(root, "grey");

  test("opens in transformers.js and takes colour and grey pictures, with our scores", async () => {
    const net = smallMixer();
    await exportHub(net, folder, { arch: "mixer", description: "small", preprocessing: grey, dtypes: ["float32"] });
    expect(JSON.parse(readFileSync(join(folder, "config.json"), "utf8"))).toMatchObject({ num_channels: 3 });
    expect(readFileSync(join(folder, "README.md"), "utf8")).toContain("compute the brightness of their input first");
    const predictor = await Predictor.create(net, { inputShape: [1, 28, 28] });
    const theirs = await pipeline("image-classification", folder, { dtype: "fp32" });
    for (const channels of [1, 3, 4] as const) {
      const data = pixels(28, 28, channels);
      const rgb = channels === 4 ? data.filter((_, i) => i % 4 !== 3) : data;
      const values = preprocess({ ...size, data: rgb }, grey);
      const logits = (await predictor.run(new Tensor("float32", [1, 1, 28, 28], values))).data as Float32Array;
      const top = Math.max(...logits);
      const sum = logits.reduce((n, v) => n + Math.exp(v - top), 0);
      const [best] = (await theirs(new RawImage(data, 28, 28, channels), { top_k: 1 })) as {
        label: string;
        score: number;
      }[];
      expect(best.label, `${channels} channels`).toBe(`LABEL_${logits.indexOf(top)}`);
      // Brightness is rounded to whole steps here and not there.
      expect(best.score).toBeCloseTo(1 / sum, 2);
    }
    await predictor.dispose();
  });

  test("its files open as classifiers", async () => {
    const { preprocessing, classes } = await openClassifier(join(folder, "onnx/model.onnx"));
    expect(preprocessing).toEqual({ ...grey, inputSize: [3, 28, 28], mean: [0.3, 0.3, 0.3], std: [0.4, 0.4, 0.4] });
    expect(classes).toBe(10);
  });
});

describe("resizing to less than the input", () => {
  const base = { ...imagenetPreprocessing(32), inputSize: [3, 32, 32] } as const;
  const write = (name: string, preprocessing: Preprocessing) =>
    exportHub(smallResnet("light"), join(root, name), {
      arch: "x",
      description: "x",
      preprocessing,
      dtypes: ["float32"],
      check: false,
    });

  test.for<[string, Preprocessing]>([
    ["the shorter side", { ...base, resize: 30 }],
    ["one side only", { ...base, resize: [40, 30] }],
  ])("is refused where transformers.js cannot pad: %s", async ([name, preprocessing]) => {
    await expect(write(name, preprocessing)).rejects.toMatchObject({
      code: "export/preprocessing",
      message: expect.stringMatching(/padded to 32 x 32, which transformers\.js cannot do.*--layout file/),
    });
  });

  test.for<[string, Preprocessing]>([
    ["squashed to less", { ...base, resize: [24, 30] }],
    ["squashed to less and equal", { ...base, resize: [32, 30] }],
    ["the shorter side to as much", { ...base, resize: 32 }],
  ])("works otherwise, for upright, wide and square pictures: %s", async ([name, preprocessing]) => {
    await write(name, preprocessing);
    const theirs = await pipeline("image-classification", join(root, name), { dtype: "fp32" });
    for (const [width, height] of [
      [40, 60],
      [90, 50],
      [33, 33],
    ] as const)
      expect(await theirs(new RawImage(pixels(width, height, 3), width, height, 3), { top_k: 1 })).toHaveLength(1);
  });
});
