/*
 * Networks that are quantized to be checked, each with pictures to calibrate and to test on: a public ResNet-20 on CIFAR-10,
 * a public MobileOne-S0 on imagenette, and a RepMLP network with values of a formula on CIFAR-10. DATA holds `checkpoints/`,
 * `cifar10/` and `imagenet/`.
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { brotliDecompressSync } from "node:zlib";
import {
  cifar10FromBytes,
  type Dataset,
  imagenetNormalization,
  imagenetPreprocessing,
  preprocess,
} from "../src/data/index.ts";
import { readPicture } from "../src/data/node/index.ts";
import {
  compileModel,
  createModel,
  exportOnnx,
  type Feeds,
  type Net,
  openCheckpointFile,
  Tensor,
} from "../src/node.ts";
import type { OnnxModel } from "../src/onnx/index.ts";
import { MobileOneS0, ResNet20 } from "./checkpoint-networks.ts";
import { fillByFormula } from "./conformance/formula.ts";

/** Pictures with their classes. */
export interface Labelled {
  /** `[N, 3, H, W]`, prepared as the network's input. */
  readonly images: Tensor;
  readonly labels: readonly number[];
}

export interface QuantizedNetwork {
  /** In float. */
  readonly model: OnnxModel;
  /** Batches to calibrate with. */
  calibration(): AsyncIterable<Feeds>;
  /** Some pictures that it was not calibrated with. */
  test(count: number): Promise<Labelled>;
}

/** All pictures of a part of CIFAR-10. */
export async function cifarPart(data: string, name: string): Promise<Dataset> {
  const bytes = new Uint8Array(brotliDecompressSync(await readFile(join(data, "cifar10", `${name}.bin.br`))));
  return cifar10FromBytes([{ name, bytes }], imagenetNormalization);
}

const indices = (count: number, from = 0): number[] => Array.from({ length: count }, (_, i) => from + i);

async function onCifar(data: string, net: Net): Promise<QuantizedNetwork> {
  const [train, test] = await Promise.all([cifarPart(data, "train_1"), cifarPart(data, "test_a")]);
  const { model } = await exportOnnx(net.eval(), { inputShape: [3, 32, 32] });
  return {
    model,
    async *calibration() {
      for (let at = 0; at < 256; at += 32) yield { pixel_values: (await train.batch(indices(32, at))).images };
    },
    async test(count) {
      const { images, labels } = await test.batch(indices(Math.min(count, test.length)));
      return { images, labels: Array.from(labels) };
    },
  };
}

async function loaded<N extends Net>(net: N, path: string): Promise<N> {
  using checkpoint = await openCheckpointFile(path);
  const read = [...checkpoint.entries].map(async ([key, source]) => [key, await source.read()] as const);
  net.loadStateDict(new Map(await Promise.all(read)));
  return net;
}

/** Pictures of imagenette, the classes in turn. */
async function imagenette(data: string, folder: string, perClass: number): Promise<Labelled> {
  const preprocessing = imagenetPreprocessing(224);
  const table = await readFile(join(data, "imagenet", "imagenet_classes.tsv"), "utf8");
  const wnids = table
    .trim()
    .split("\n")
    .map((line) => line.split("\t")[1]);
  const found: { readonly image: Float32Array; readonly label: number }[] = [];
  for (let i = 0; i < perClass; i++)
    for (const wnid of (await readdir(folder)).sort()) {
      const file = (await readdir(join(folder, wnid))).sort()[i];
      if (file === undefined) continue;
      const picture = await readPicture(join(folder, wnid, file));
      found.push({ image: preprocess(picture, preprocessing), label: wnids.indexOf(wnid) });
    }
  const size = 3 * 224 * 224;
  const values = new Float32Array(found.length * size);
  for (const [i, { image }] of found.entries()) values.set(image, i * size);
  return {
    images: new Tensor("float32", [found.length, 3, 224, 224], values),
    labels: found.map(({ label }) => label),
  };
}

/** Rows `from` to `to` of pictures. */
export const rows = ({ dtype, shape: [count, ...rest], data }: Tensor, from: number, to: number): Tensor => {
  const each = data.length / count;
  const end = Math.min(to, count);
  return new Tensor(dtype, [end - from, ...rest], data.slice(from * each, end * each) as Tensor["data"]);
};

/** The class of each row of logits. */
export const classesOf = ({ shape: [count, classes], data }: Tensor): number[] =>
  Array.from({ length: count }, (_, i) => {
    const row = (data as Float32Array).subarray(i * classes, (i + 1) * classes);
    return row.indexOf(row.reduce((a, b) => Math.max(a, b)));
  });

/** Pictures that go through a network together. */
export const BATCH = 10;

/** How many pictures a model gives the right class. */
export async function correctOf(model: OnnxModel, { images, labels }: Labelled): Promise<number> {
  await using program = await compileModel(model);
  let right = 0;
  for (let at = 0; at < labels.length; at += BATCH) {
    const [logits] = Object.values(await program.run({ [model.inputs[0].name]: rows(images, at, at + BATCH) }));
    right += classesOf(logits).filter((label, i) => label === labels[at + i]).length;
  }
  return right;
}

const CLASSES = 10;

export const quantizedNetworks = {
  resnet20: async (data: string): Promise<QuantizedNetwork> =>
    onCifar(data, await loaded(new ResNet20(), join(data, "checkpoints", "resnet20-12fca82f.safetensors"))),
  /** `pictures` is imagenette224-a.tar, unpacked. */
  mobileone: async (data: string, pictures: string): Promise<QuantizedNetwork> => {
    const path = join(data, "checkpoints", "mobileone_s0_fused.safetensors");
    const net = await loaded(new MobileOneS0(), path);
    const { model } = await exportOnnx(net.eval(), { inputShape: [3, 224, 224] });
    return {
      model,
      async *calibration() {
        const { images } = await imagenette(data, join(pictures, "train"), 8);
        for (let at = 0; at < images.shape[0]; at += 8) yield { pixel_values: rows(images, at, at + 8) };
      },
      test: (count) => imagenette(data, join(pictures, "val"), Math.ceil(count / CLASSES)),
    };
  },
  repmlp: (data: string): Promise<QuantizedNetwork> =>
    onCifar(data, fillByFormula(createModel("RepMLP-CIFAR10-pure-MLP"))),
} satisfies Readonly<Record<string, (data: string, pictures: string) => Promise<QuantizedNetwork>>>;

export type QuantizedNetworkName = keyof typeof quantizedNetworks;
