import { cifar10Normalization } from "../data/index.ts";
import { listed, must, nearest } from "../errors.ts";
import type { Net } from "../nn/index.ts";
import { RepMLPCifar, type RepMLPCifarOptions } from "./repmlp-cifar.ts";
import { RepMLPResNet, type RepMLPResNetOptions } from "./repmlp-resnet.ts";
import { RepMLPMixer, type RepMLPMixerOptions } from "./small.ts";

/** Preprocessing that belongs to a network's weights, with timm's field names. */
export interface PreprocessingConfig {
  /** Channels, height, width. */
  readonly inputSize: readonly [channels: number, height: number, width: number];
  /** Short edge after resizing, in pixels; the centre `inputSize` is then cropped. */
  readonly resize: number;
  readonly cropMode: "center" | "squash";
  readonly interpolation: "bilinear" | "bicubic";
  /** Per channel, on the scale 0 … 1. */
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

/** Options that every named model understands. */
export interface CreateOptions {
  readonly numClasses?: number;
  /** Height and width of the input in pixels. */
  readonly imageSize?: number;
}

interface ModelEntry<O = CreateOptions> {
  readonly create: (options: O) => Net;
  readonly description: string;
  readonly preprocessing: (options: CreateOptions) => PreprocessingConfig;
  readonly aliases?: readonly string[];
  /** Names of the options; a record, so that the compiler notices a missing one. */
  readonly options: Readonly<Record<keyof O, true>>;
  /** Channels of the input. */
  readonly channels: number;
  readonly imageSize: number;
}

/** ImageNet statistics. The short edge is resized to 256 for 224, and straight to the input size otherwise. */
const imagenet =
  (size: number) =>
  ({ imageSize = size }: CreateOptions): PreprocessingConfig => ({
    inputSize: [3, imageSize, imageSize],
    resize: imageSize === 224 ? 256 : imageSize,
    cropMode: "center",
    interpolation: "bilinear",
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
  });

const resnetOptions: Readonly<Record<keyof RepMLPResNetOptions, true>> = {
  blockType: true,
  imageSize: true,
  numClasses: true,
  partition: true,
  reparamConvKernels: true,
  groups: true,
  fc1Fc2Reduction: true,
  numBlocks: true,
  channels: true,
  stemChannels: true,
  bottleneckReduction: true,
};

const cifarOptions: Readonly<Record<keyof RepMLPCifarOptions, true>> = {
  mixer: true,
  numClasses: true,
  imageSize: true,
  channels: true,
  partition: true,
  reparamConvKernels: true,
  groups: true,
  globalPerceptron: true,
};

const cifar = (description: string, fixed: RepMLPCifarOptions): ModelEntry<RepMLPCifarOptions> => ({
  description,
  imageSize: 32,
  channels: 3,
  options: cifarOptions,
  create: (options) => new RepMLPCifar({ ...fixed, ...options }),
  preprocessing: ({ imageSize = 32 }) => ({
    inputSize: [3, imageSize, imageSize],
    resize: imageSize,
    cropMode: "center",
    interpolation: "bilinear",
    ...cifar10Normalization,
  }),
});

const mixerOptions: Readonly<Record<keyof RepMLPMixerOptions, true>> = {
  numClasses: true,
  inChannels: true,
  imageSize: true,
  channels: true,
  partition: true,
  reparamConvKernels: true,
  groups: true,
};

const resnet = (
  description: string,
  imageSize: number,
  fixed: RepMLPResNetOptions,
  aliases: readonly string[] = [],
): ModelEntry<RepMLPResNetOptions> => ({
  description,
  imageSize,
  channels: 3,
  aliases,
  options: resnetOptions,
  create: (options) => new RepMLPResNet({ imageSize, ...fixed, ...options }),
  preprocessing: imagenet(imageSize),
});

const large = { partition: 10, reparamConvKernels: [1, 3, 5, 7], blockType: "bottleneck" } as const;

const entries: Readonly<Record<string, ModelEntry<never>>> = {
  "RepMLP-Res50-light-224": resnet(
    "ResNet-50 with Light blocks in stages 2 and 3, 4 groups",
    224,
    { blockType: "light" },
    ["repmlp_res50_light_224"],
  ),
  "RepMLP-Res50-bottleneck-224": resnet(
    "ResNet-50 with Bottleneck blocks in stages 2 and 3, 8 groups",
    224,
    { blockType: "bottleneck" },
    ["repmlp_res50_bottleneck_224"],
  ),
  "RepMLP-Res50-bottleneck-320-g8/8": resnet("320 pixels, 8 groups in both stages", 320, { ...large, groups: [8, 8] }, [
    "RepMLP-Res50-bottleneck-320",
  ]),
  "RepMLP-Res50-bottleneck-320-g8/16": resnet("320 pixels, 8 and 16 groups", 320, { ...large, groups: [8, 16] }),
  "RepMLP-Res50-bottleneck-320-g4/8": resnet("320 pixels, 4 and 8 groups", 320, { ...large, groups: [4, 8] }),
  "ResNet-50-base-224": resnet("plain ResNet-50, the baseline", 224, { blockType: "base" }, ["resnet50", "base"]),
  "RepMLP-CIFAR10-pure-MLP": cifar("the paper's CIFAR-10 network: no kernel larger than 1 x 1 once merged", {}),
  "RepMLP-CIFAR10-wide-convnet": cifar("its counterpart: 3 x 3 convolutions for RepMLPs, twice as wide", {
    mixer: "conv3",
    channels: [32, 64, 128],
  }),
  "RepMLP-CIFAR10-no-local": cifar("ablation: the pure MLP without Local Perceptron", { reparamConvKernels: [] }),
  "RepMLP-CIFAR10-no-global": cifar("ablation: the pure MLP without Global Perceptron", { globalPerceptron: false }),
  "RepMLP-CIFAR10-fc3-conv9": cifar("ablation: a 9 x 9 convolution in place of each FC3", { mixer: "fc3Conv9" }),
  "RepMLP-CIFAR10-conv9": cifar("ablation: a 9 x 9 convolution in place of each RepMLP", { mixer: "conv9" }),
  "RepMLP-Mixer-28": {
    description: "small pure-MLP network for 28 x 28 grey pictures (the demo)",
    imageSize: 28,
    channels: 1,
    options: mixerOptions,
    create: (options: RepMLPMixerOptions) => new RepMLPMixer(options),
    preprocessing: ({ imageSize = 28 }) => ({
      inputSize: [1, imageSize, imageSize],
      resize: imageSize,
      cropMode: "center",
      interpolation: "bilinear",
      mean: [0.28604],
      std: [0.35302],
    }),
  },
};

/** Names of the models, sorted; with a glob (`*`, `?`) those that match it, whatever the case. */
export function listModels(glob = "*"): string[] {
  const pattern = glob
    .replace(/[.+^${}()|[\]\\]/g, "\\$&")
    .replaceAll("*", ".*")
    .replaceAll("?", ".");
  const regex = new RegExp(`^${pattern}$`, "i");
  return Object.keys(entries)
    .filter((name) => regex.test(name))
    .sort();
}

/** What is known of a model without building it. */
export function modelInfo(
  name: string,
): { readonly name: string } & Pick<ModelEntry, "description" | "channels" | "imageSize" | "preprocessing"> {
  const [canonical, entry] = find(name);
  const { description, channels, imageSize, preprocessing } = entry;
  return { name: canonical, description, channels, imageSize, preprocessing };
}

function find(name: string): [string, ModelEntry] {
  const wanted = name.toLowerCase();
  const found = Object.entries(entries).find(
    ([key, entry]) => key.toLowerCase() === wanted || entry.aliases?.some((a) => a.toLowerCase() === wanted),
  );
  must(
    found,
    "models/unknown",
    () => {
      const containing = listModels(`*${name}*`);
      const hints = containing.length ? containing : nearest(name, listModels());
      return `models: there is no "${name}". Did you mean ${listed(hints, 3)}?`;
    },
    "usage",
  );
  return found as [string, ModelEntry];
}

/**
 * Builds a model by name, in training form and without values; initialize it or load a state dict. Names and aliases
 * are compared without case.
 *
 * @param options  those of the model's class beside `numClasses` and `imageSize`; `undefined` stands for the default
 */
export function createModel(name: string, options: CreateOptions & Readonly<Record<string, unknown>> = {}): Net {
  const [canonical, entry] = find(name);
  const known = Object.keys(entry.options);
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  for (const [option] of given)
    must(
      known.includes(option),
      "models/option",
      () =>
        `models: ${canonical} has no option "${option}". Did you mean ${nearest(option, known, 1)}? It has ${known.join(", ")}.`,
      "usage",
    );
  return entry.create(Object.fromEntries(given));
}
