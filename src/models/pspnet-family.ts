import { imagenetNormalization } from "../data/index.ts";
import { listed, must } from "../errors.ts";
import type { Pair } from "../graph/index.ts";
import type { Backbone } from "./backbone.ts";
import { defineFamily, type Family, type ModelOptions, picturesOf } from "./family.ts";
import { byName, counts, fromZero, oneOrTwo, probability, two, whole, word } from "./options.ts";
import { PSPNet, type PSPNetOptions } from "./pspnet.ts";
import { repmlpResNet } from "./repmlp-resnet.ts";
import { repvgg } from "./repvgg.ts";
import { resnet } from "./resnet.ts";

interface Options extends Omit<PSPNetOptions, "numClasses"> {
  /** Network of classes whose maps are taken, by name. */
  readonly backbone: string;
  /** Its options, where they are not its own. */
  readonly backboneOptions?: ModelOptions;
  /** Dilations of stages 3 and 4. Default 2 and 4. */
  readonly dilation?: Pair;
  /** Default 19. */
  readonly numClasses?: number;
  /** Default 713. */
  readonly imageSize?: number | Pair;
}

/** Families whose networks can be built as a {@link Backbone}. */
const backboneFamilies = [repmlpResNet, resnet, repvgg] as const;

const SIZE = 713;

/** Family, name and checked options of a backbone. Throws `models/backbone`, `models/option`. */
function backboneOf({ backbone, backboneOptions = {}, imageSize = SIZE }: Options): {
  readonly family: Family;
  readonly name: string;
  readonly options: ModelOptions;
} {
  const wanted = backbone.toLowerCase();
  for (const family of backboneFamilies)
    for (const [name, { aliases = [] }] of Object.entries(family.variants))
      if ([name, ...aliases].some((n) => n.toLowerCase() === wanted))
        return { family, name, options: family.options(name, { ...backboneOptions, imageSize } as ModelOptions) };
  must(
    false,
    "models/backbone",
    () =>
      `models: "${backbone}" cannot be a backbone. Take one of ${listed(
        backboneFamilies.flatMap(({ variants }) => Object.keys(variants)),
        99,
      )}.`,
    "usage",
  );
  throw new Error("internal: not reached");
}

/** What the paper of RepMLP took from one that was trained at 320 pixels: 81 partitions of 10 × 10. */
const repmlpBackbone = {
  backbone: "RepMLP-Res50-bottleneck-320-g4/8",
  backboneOptions: { fc1Fc2Reduction: [4, 8] },
  // RepMLP's own blocks cannot be dilated.
  dilation: [1, 4],
} as const;

/** Of the network that the paper compares with. */
const published = [
  {
    form: "deploy",
    parameters: "46.56 M",
    macs: "350,004 M",
    source: "arXiv 2105.01883, table of Cityscapes",
    difference: "multiply-adds: 350,005 M, one more in the last digit",
  },
] as const;

export const pspnet = defineFamily<Options>({
  name: "PSPNet",
  task: "segmentation",
  variants: {
    "PSPNet-ResNet-50": {
      description: "PSPNet on a dilated ResNet-50",
      options: { backbone: "ResNet-50-base-224" },
      sizes: published,
    },
    "PSPNet-RepMLP-Res50-g4/8": {
      description: "PSPNet on RepMLP-Res50, of which stage 4 is dilated",
      options: repmlpBackbone,
    },
    "PSPNet-RepVGG-A0": { description: "PSPNet on a dilated RepVGG-A0", options: { backbone: "RepVGG-A0" } },
    "PSPNet-RepVGG-B1g2": { description: "PSPNet on a dilated RepVGG-B1g2", options: { backbone: "RepVGG-B1g2" } },
  },
  options: {
    backbone: word,
    backboneOptions: byName,
    dilation: two(whole),
    numClasses: whole,
    imageSize: oneOrTwo,
    bins: counts,
    midChannels: whole,
    auxChannels: whole,
    dropout: probability,
    auxWeight: fromZero,
  },
  create({ backbone, backboneOptions, dilation = [2, 4], imageSize, numClasses = 19, ...options }) {
    const found = backboneOf({ backbone, backboneOptions, imageSize });
    const net = found.family.create({ ...found.options, dilation });
    return new PSPNet(net as Backbone, { numClasses, ...options });
  },
  part: (options) => {
    const { name, options: own } = backboneOf(options);
    return { prefix: "backbone.", arch: name, options: own };
  },
  dependsOnSize: (key) => backboneFamilies.some((family) => family.dependsOnSize(key)),
  preprocessing: ({ imageSize = SIZE }) => picturesOf(imageSize, imagenetNormalization),
  namings: [{ name: "semseg", signature: [["ppm.features.0.1.weight", "cls.4.weight"]] }],
});
