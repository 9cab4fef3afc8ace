import {
  fadingRelu,
  IndexedConvBn,
  mustBeLinear,
  newSlope,
  SeriesActivation,
  VanillaBlock,
  vanillaConv,
  vanillaInit,
} from "../blocks/index.ts";
import { imagenetNormalization } from "../data/index.ts";
import { must } from "../errors.ts";
import { reduceMean, reshape, type Value } from "../graph/index.ts";
import { type Coefficient, Conv2d, cloneWith, Dropout, Identity, Module, Sequential } from "../nn/index.ts";
import {
  type BiasedMap,
  inSequence,
  type KernelAlgebra,
  type Merge,
  mapOf,
  mergedForm,
  type NamedTensors,
  type Reparameterizable,
} from "../reparam/index.ts";
import { defineFamily, picturesOf, type Variant } from "./family.ts";
import { perStage, probability, whole } from "./options.ts";

/** Options by which the published networks differ. */
interface VanillaNetVariantOptions {
  /** Channels of the stem, then of each block. Default those of 5: 512, 1024, 2048, 4096. */
  readonly dims?: readonly number[];
  /** Of each block's pooling. Default those of 5: 2, 2, 2. */
  readonly strides?: readonly number[];
  /** Of the series activations, as of {@link SeriesActivationOptions}. Default 3. */
  readonly actNum?: number;
  /** Before the head, in training. Default 0. */
  readonly dropRate?: number;
  /** Default 1000. */
  readonly numClasses?: number;
  /** Height and width that the preprocessing makes; the network takes any. Default 224. */
  readonly imageSize?: number;
}

export interface VanillaNetOptions extends VanillaNetVariantOptions {
  /** Channels of the picture. Default 3. */
  readonly inChannels?: number;
  /** Rows and columns that each block's pooling makes of the map, in place of its stride; 0 where the stride counts. */
  readonly adaptivePool?: readonly number[];
}

/** The second half of the stem; keys `0.*`, `1.*`, and the activation's `2.*`. */
class StemEnd extends IndexedConvBn {
  static override readonly stateNames = { ...IndexedConvBn.stateNames, act: "2" };
  readonly act: SeriesActivation;

  constructor(channels: number, actNum: number) {
    super(channels, channels, vanillaConv({ kernelSize: 1 }));
    this.act = new SeriesActivation({ channels, actNum });
  }

  override forward(x: Value): Value {
    return this.act.forward(super.forward(x));
  }
}

/** The first half of the head, behind pooling and dropout. */
class HeadStart extends IndexedConvBn {
  static override readonly stateNames = { conv: "2", bn: "3" };
}

const prefixed = <T>(path: string, tensors: { readonly [key: string]: T }): NamedTensors<T> =>
  Object.fromEntries(Object.entries(tensors).map(([key, tensor]) => [`${path}.${key}`, tensor]));

const layer = <T>(path: string, { weight, bias }: BiasedMap<T>): NamedTensors<T> => prefixed(path, { weight, bias });

/**
 * VanillaNet (arXiv 2305.12972, section 4): a 4×4 convolution with stride 4 and one of 1×1, {@link VanillaBlock}s, global
 * average pooling, and a head of two layers; between any two convolutions a ReLU that fades to nothing in training: one
 * {@link Coefficient} `slope` for all, which a recipe takes from 0 to 1 (`coefficients`). Without that it stays at 1, where
 * the network of published weights has it.
 *
 * Keys `stem1.*`, `stem2.*`, `stages.{i}.*`, `cls1.*`, `cls2.*`; merged `stem.{0,1}.*`, `stages.{i}.{conv,act}.*`, `cls.2.*`.
 *
 * `[N, 3, H, W]` → `[N, numClasses]`.
 */
export class VanillaNet extends Module implements Reparameterizable {
  readonly stem1: IndexedConvBn | undefined;
  readonly stem2: StemEnd | undefined;
  readonly stem: Sequential | undefined = undefined;
  readonly stages: readonly VanillaBlock[];
  readonly cls1: HeadStart | undefined;
  readonly cls2: Sequential | undefined;
  readonly cls: Sequential | undefined = undefined;
  readonly slope: Coefficient = newSlope();
  private readonly dropout: Dropout;

  constructor({
    dims = [512, 1024, 2048, 4096],
    strides = [2, 2, 2],
    actNum = 3,
    dropRate = 0,
    numClasses = 1000,
    inChannels = 3,
    adaptivePool = strides.map(() => 0),
  }: VanillaNetOptions = {}) {
    super();
    must(
      dims.length === strides.length + 1 && adaptivePool.length === strides.length,
      "vanillanet/stages",
      () =>
        `vanillanet: dims must have one entry more than strides, adaptivePool as many as it, got ${dims.length}, ${strides.length} and ${adaptivePool.length}`,
      "usage",
    );
    const [first, last] = [dims[0], dims[dims.length - 1]];
    this.stem1 = new IndexedConvBn(inChannels, first, vanillaConv({ kernelSize: 4, stride: 4 }));
    this.stem2 = new StemEnd(first, actNum);
    this.stages = strides.map(
      (stride, i) =>
        new VanillaBlock({
          ...{ inChannels: dims[i], outChannels: dims[i + 1], actNum, stride, slope: this.slope },
          adaptivePool: adaptivePool[i],
        }),
    );
    this.cls1 = new HeadStart(last, numClasses, vanillaConv({ kernelSize: 1 }));
    this.cls2 = new Sequential(new Conv2d(numClasses, numClasses, { kernelSize: 1, ...vanillaInit }));
    this.dropout = new Dropout(dropRate);
  }

  forward(x: Value): Value {
    const { stem, stem1, stem2, cls, cls1, cls2, slope } = this;
    const first = stem ? stem.forward(x) : stem2!.forward(fadingRelu(stem1!.forward(x), slope));
    const features = this.stages.reduce((y, block) => block.forward(y), first);
    const pooled = this.dropout.forward(reduceMean(features, [2, 3], { keepDims: true }));
    const y = cls ? cls.forward(pooled) : cls2!.forward(fadingRelu(cls1!.forward(pooled), slope));
    return reshape(y, y.shape.slice(0, 2));
  }

  equivalent<T>(k: KernelAlgebra<T>): NamedTensors<T> {
    const { stem1, stem2, cls1, cls2 } = this;
    const stages = this.stages.map((block, i) => prefixed(`stages.${i}`, block.equivalent(k)));
    const own = (sequential: Sequential | undefined, i: number): BiasedMap<T> =>
      mapOf(k, sequential!.layers[i] as Conv2d) as BiasedMap<T>;
    const ends =
      stem1 && stem2 && cls1
        ? {
            stem: inSequence(k, stem1.fused(k), stem2.fused(k)),
            act: stem2.act.fused(k),
            cls: inSequence(k, cls1.fused(k), own(cls2, 0)),
          }
        : { stem: own(this.stem, 0), act: own(this.stem, 1), cls: own(this.cls, 2) };
    return Object.assign(
      { ...layer("stem.0", ends.stem), ...layer("stem.1", ends.act), ...layer("cls.2", ends.cls) },
      ...stages,
    );
  }

  /** @throws `vanillanet/slope` while there is a non-linearity between the convolutions */
  merge(): Merge {
    const { stem1, stem2, cls1 } = this;
    if (!stem1 || !stem2 || !cls1) return { kept: "already merged" };
    mustBeLinear(this.slope);
    const [channels, inChannels] = stem1.conv.weight.shape;
    const [classes, last] = cls1.conv.weight.shape;
    const shell = cloneWith(this as VanillaNet, {
      ...{ stem1: undefined, stem2: undefined, cls1: undefined, cls2: undefined },
      stem: new Sequential(new Conv2d(inChannels, channels, { kernelSize: 4, stride: 4 }), stem2.act.shell),
      stages: this.stages.map((block) => block.shell),
      cls: new Sequential(new Identity(), new Identity(), new Conv2d(last, classes, { kernelSize: 1 })),
    });
    return {
      merged: mergedForm(shell, this),
      note: "every two convolutions into one, and the batch norms into them and the activations",
    };
  }
}

const SOURCE = "VanillaNet's README";

const variant = (
  depth: number,
  [dims, strides]: readonly [readonly number[], readonly number[]],
  top1: number,
  [parameters, macs]: readonly [string, string],
): Variant<VanillaNetVariantOptions> => ({
  description: `${depth} convolutions once merged, without shortcuts, up to ${Math.max(...dims) * 4} channels`,
  options: { dims: dims.map((d) => 4 * d), strides },
  figures: [{ top1, imageSize: 224, source: SOURCE }],
  sizes: [{ form: "deploy", parameters, macs, source: SOURCE }],
});

export const vanillanet = defineFamily<VanillaNetVariantOptions>({
  name: "VanillaNet",
  variants: {
    "VanillaNet-5": variant(
      5,
      [
        [128, 256, 512, 1024],
        [2, 2, 2],
      ],
      72.49,
      ["15.5 M", "5.2 G"],
    ),
    "VanillaNet-6": variant(
      6,
      [
        [128, 256, 512, 1024, 1024],
        [2, 2, 2, 1],
      ],
      76.36,
      ["32.5 M", "6.0 G"],
    ),
    "VanillaNet-7": variant(
      7,
      [
        [128, 128, 256, 512, 1024, 1024],
        [1, 2, 2, 2, 1],
      ],
      77.98,
      ["32.8 M", "6.9 G"],
    ),
    "VanillaNet-8": variant(
      8,
      [
        [128, 128, 256, 512, 512, 1024, 1024],
        [1, 2, 2, 1, 2, 1],
      ],
      79.13,
      ["37.1 M", "7.7 G"],
    ),
    "VanillaNet-9": variant(
      9,
      [
        [128, 128, 256, 512, 512, 512, 1024, 1024],
        [1, 2, 2, 1, 1, 2, 1],
      ],
      79.87,
      ["41.4 M", "8.6 G"],
    ),
    "VanillaNet-10": variant(
      10,
      [
        [128, 128, 256, 512, 512, 512, 512, 1024, 1024],
        [1, 2, 2, 1, 1, 1, 2, 1],
      ],
      80.57,
      ["45.7 M", "9.4 G"],
    ),
  },
  options: {
    dims: perStage(whole),
    strides: perStage(whole),
    actNum: whole,
    dropRate: probability,
    numClasses: whole,
    imageSize: whole,
  },
  create: (options) => new VanillaNet(options),
  preprocessing: ({ imageSize = 224 }) => ({
    ...picturesOf(imageSize, imagenetNormalization, (size) => Math.floor(size / 0.875)),
    interpolation: "bicubic",
  }),
  namings: [
    {
      name: "vanillanet",
      signature: [
        ["stem1.0.weight", "stem2.2.weight", "stages.0.act.weight"],
        ["stem.0.weight", "stem.1.weight", "stages.0.act.weight"],
      ],
    },
  ],
});
