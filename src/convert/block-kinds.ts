import {
  ACB,
  BnLinear,
  DBB,
  DilatedReparamBlock,
  dilatedBranches,
  dilatedBranchName,
  ECB,
  MBRConv,
  MobileOneBlock,
  ReparamLargeKernelConv,
  RepMLP,
  RepVGGBlock,
  RepVGGDW,
  RVSRRepConv,
  YoloQARepVGGBlock,
  YoloRepConv,
  YoloRepVGGDW,
} from "../blocks/index.ts";
import type { Module } from "../nn/index.ts";
import type { Reparameterizable } from "../reparam/index.ts";
import type { Shape } from "../tensor/index.ts";

/** The members of one block in a state dict, by the keys that the block has here. */
export interface BlockGroup {
  /** Whether a layer is there. */
  has(layer: string): boolean;
  /** Shape of a member that is there. */
  shape(key: string): Shape;
  /** Numbers that stand for `#` in a layer's name, ascending. */
  numbers(layer: string): readonly number[];
}

/** What a user says where the keys do not tell; see {@link BlockKind}. */
export interface BlockAnswers {
  readonly identity?: boolean | undefined;
  readonly partition?: readonly [height: number, width: number] | undefined;
}

/** What has to be asked before a block can be merged. */
export interface BlockQuestion {
  readonly option: keyof BlockAnswers;
  /** What the keys do not tell, and why it matters. */
  readonly why: string;
}

export type BlockModule = Module & Reparameterizable;

/** Parameters of a layer; its counter may be there or not. */
export interface LayerKeys {
  readonly names: readonly string[];
  /** Whether a block may be without it. */
  readonly optional: boolean;
  /** Whether many other things have a layer of this name, so that it alone says nothing. */
  readonly common?: boolean;
}

/**
 * A kind of block that is recognised by its keys alone, whatever the network. Layers are the block's own names, as its
 * class has them; `#` stands for a number.
 */
export interface BlockKind {
  readonly name: string;
  /** Where it comes from. */
  readonly source: string;
  readonly layers: Readonly<Record<string, LayerKeys>>;
  /** What the layer is called that is left after the merge; empty where that is the block itself. */
  readonly merged: string;
  /** Whether the names are this kind's own, so that a part of them is a damaged block and no other thing. */
  readonly telling: boolean;
  /** Other names of layers, by those here; the merged one's, too. */
  readonly namings?: readonly Readonly<Record<string, string>>[];
  /** Whether the shapes are such a block's, where other things may have these names. Default: they are. */
  readonly fits?: (group: BlockGroup) => boolean;
  /** Why a group with these keys may be something else: then the kind is asked for. */
  readonly doubt?: (group: BlockGroup) => string | undefined;
  /** The block, without values. Strides and paddings do not matter to a merge, and so may be any. */
  readonly build: (group: BlockGroup, answers: BlockAnswers) => BlockModule | BlockQuestion;
}

const layer = (...names: string[]): LayerKeys => ({ names, optional: false });
const conv = layer("weight");
const biased = layer("weight", "bias");
const norm = layer("weight", "bias", "running_mean", "running_var");
const optional = ({ names }: LayerKeys): LayerKeys => ({ names, optional: true });

/** Convolutions with batch norms under two names each: `branch.conv`, `branch.bn`. */
const convBn = (...branches: string[]): Record<string, LayerKeys> =>
  Object.fromEntries(
    branches.flatMap((branch) => [
      [`${branch}.conv`, conv],
      [`${branch}.bn`, norm],
    ]),
  );

/** Channels and groups, where a layer of C channels shows them. */
const repvggOptions = (group: BlockGroup) => {
  const [outChannels, perGroup, kernelSize] = group.shape("rbr_dense.conv.weight");
  // With an identity there are as many inputs as outputs. Without one, groups change nothing about the merge.
  return group.has("rbr_identity")
    ? { inChannels: outChannels, outChannels, kernelSize, groups: outChannels / perGroup }
    : { inChannels: perGroup, outChannels, kernelSize, stride: 2 };
};

const repvggLayers = { ...convBn("rbr_dense", "rbr_1x1"), rbr_identity: optional(norm) };
const buildRepVGG = (group: BlockGroup): BlockModule => new RepVGGBlock(repvggOptions(group));

const NO_PARAMETERS = "whether the input itself is added: that branch has no parameters";

const mbrBranches = ["conv1", "conv2", "conv_crossh", "conv_crossv"];

/** All kinds. Of several that fit, the one that takes in the most keys is meant; of the same keys it is asked for. */
export const blockKinds: readonly BlockKind[] = [
  {
    name: "RepVGGBlock",
    source: "RepVGG, YOLOv6; RepConv of YOLOv7; timm",
    layers: repvggLayers,
    merged: "rbr_reparam",
    telling: true,
    namings: [
      {
        "rbr_dense.conv": "rbr_dense.0",
        "rbr_dense.bn": "rbr_dense.1",
        "rbr_1x1.conv": "rbr_1x1.0",
        "rbr_1x1.bn": "rbr_1x1.1",
      },
      {
        "rbr_dense.conv": "conv_kxk.conv",
        "rbr_dense.bn": "conv_kxk.bn",
        "rbr_1x1.conv": "conv_1x1.conv",
        "rbr_1x1.bn": "conv_1x1.bn",
        rbr_identity: "identity",
        rbr_reparam: "reparam_conv",
      },
    ],
    build: buildRepVGG,
  },
  {
    name: "RepConv",
    source: "RepConv of Ultralytics and YOLOv10; RepVggBlock of RT-DETR",
    layers: { ...convBn("conv1", "conv2"), bn: optional(norm) },
    merged: "conv",
    telling: false,
    fits: (group) => {
      const [o, c, kernel] = group.shape("conv1.conv.weight");
      const [o2, c2, pointwise] = group.shape("conv2.conv.weight");
      return o === o2 && c === c2 && kernel > 1 && pointwise === 1;
    },
    doubt: (group) => {
      const [o, c] = group.shape("conv2.conv.weight");
      // In a sequence the second layer would take the outputs of the first.
      return !group.has("bn") && (c === o || c === 1)
        ? "conv1 and conv2 (1x1) may be branches that are added up, or layers one after the other"
        : undefined;
    },
    build: (group) => {
      const [outChannels, perGroup, kernelSize] = group.shape("conv1.conv.weight");
      const identity = group.has("bn");
      return identity
        ? new YoloRepConv({
            inChannels: outChannels,
            outChannels,
            kernelSize,
            groups: outChannels / perGroup,
            identity,
          })
        : new YoloRepConv({ inChannels: perGroup, outChannels, kernelSize });
    },
  },
  {
    name: "YoloRepVGGDW",
    source: "RepVGGDW of YOLOv10 and Ultralytics",
    layers: convBn("conv", "conv1"),
    merged: "conv",
    telling: false,
    fits: (group) => {
      const [channels, ...kernel] = group.shape("conv.conv.weight");
      const [others, ...small] = group.shape("conv1.conv.weight");
      return channels === others && kernel.join() === "1,7,7" && small.join() === "1,3,3";
    },
    build: (group) => new YoloRepVGGDW({ channels: group.shape("conv.conv.weight")[0] }),
  },
  ...[false, true].map(
    (average): BlockKind => ({
      name: average ? "QARepVGGBlockV2" : "QARepVGGBlock",
      source: average ? "YOLOv6, with an average of the input as one more branch" : "YOLOv6",
      layers: { ...convBn("rbr_dense"), rbr_1x1: conv, bn: { ...norm, common: true } },
      merged: "rbr_reparam",
      telling: true,
      build: (group, { identity }) => {
        const [outChannels, perGroup, kernelSize] = group.shape("rbr_dense.conv.weight");
        if (outChannels % perGroup === 0 && identity === undefined) return { option: "identity", why: NO_PARAMETERS };
        return identity
          ? new YoloQARepVGGBlock({
              ...{ inChannels: outChannels, outChannels, kernelSize, groups: outChannels / perGroup, average },
            })
          : new YoloQARepVGGBlock({ inChannels: perGroup, outChannels, kernelSize, stride: 2, average });
      },
    }),
  ),
  {
    name: "RepVGGDW",
    source: "RepViT",
    layers: { "conv.c": conv, "conv.bn": norm, conv1: biased, bn: norm },
    merged: "",
    telling: false,
    fits: (group) => group.shape("conv.c.weight").slice(1).join() === "1,3,3",
    build: (group) => new RepVGGDW(group.shape("conv.c.weight")[0]),
  },
  {
    name: "BnLinear",
    source: "classifiers of LeViT and RepViT",
    layers: { bn: norm, l: biased },
    merged: "",
    telling: false,
    fits: (group) => {
      const [, inputs, ...more] = group.shape("l.weight");
      return more.length === 0 && group.shape("bn.weight")[0] === inputs;
    },
    build: (group) => {
      const [outputs, inputs] = group.shape("l.weight");
      return new BnLinear(inputs, outputs);
    },
  },
  {
    name: "MobileOneBlock",
    source: "MobileOne; timm; LearnableRepLayer of PP-OCR",
    layers: {
      "rbr_conv.#.conv": conv,
      "rbr_conv.#.bn": norm,
      "rbr_scale.conv": optional(conv),
      "rbr_scale.bn": optional(norm),
      rbr_skip: optional(norm),
    },
    merged: "reparam_conv",
    telling: true,
    namings: ["conv_scale", "conv_1x1"].map((scale) => ({
      "rbr_conv.#.conv": "conv_kxk.#.conv",
      "rbr_conv.#.bn": "conv_kxk.#.bn",
      "rbr_scale.conv": `${scale}.conv`,
      "rbr_scale.bn": `${scale}.bn`,
      rbr_skip: "identity",
    })),
    build: (group) => {
      const numbers = group.numbers("rbr_conv.#.conv");
      const [outChannels, perGroup, kernelSize] = group.shape(`rbr_conv.${numbers[0]}.conv.weight`);
      const options = {
        ...{ outChannels, kernelSize, numConvBranches: numbers.length },
        useScaleBranch: group.has("rbr_scale.conv"),
      };
      return group.has("rbr_skip")
        ? new MobileOneBlock({ ...options, inChannels: outChannels, groups: outChannels / perGroup })
        : new MobileOneBlock({ ...options, inChannels: perGroup, stride: 2 });
    },
  },
  {
    name: "ReparamLargeKernelConv",
    source: "RepLKNet; FastViT; timm",
    layers: {
      ...convBn("lkb_origin"),
      "small_conv.conv": optional(conv),
      "small_conv.bn": optional(norm),
    },
    merged: "lkb_reparam",
    telling: true,
    namings: [{ "lkb_origin.conv": "large_conv.conv", "lkb_origin.bn": "large_conv.bn", lkb_reparam: "reparam_conv" }],
    build: (group) => {
      const [outChannels, inChannels, kernelSize] = group.shape("lkb_origin.conv.weight");
      const smallKernel = group.has("small_conv.conv") ? group.shape("small_conv.conv.weight")[2] : undefined;
      return new ReparamLargeKernelConv({ inChannels, outChannels, kernelSize, smallKernel });
    },
  },
  ...[norm, layer("running_mean", "running_var")].map(
    (own): BlockKind => ({
      name: own === norm ? "ACB" : "ACB (norms without weight and bias)",
      source: "ACNet",
      layers: {
        ...{ square_conv: conv, ver_conv: conv, hor_conv: conv },
        ...{ square_bn: own, ver_bn: own, hor_bn: own },
      },
      merged: "fused_conv",
      telling: true,
      build: (group) => {
        const [outChannels, inChannels, h, w] = group.shape("square_conv.weight");
        const options = { inChannels, outChannels, kernelSize: [h, w] as const };
        return own === norm ? new ACB(options) : new ACB({ ...options, useAffine: false });
      },
    }),
  ),
  {
    name: "DBB",
    source: "Diverse Branch Block",
    layers: {
      ...convBn("dbb_origin"),
      "dbb_1x1.conv": optional(conv),
      "dbb_1x1.bn": optional(norm),
      "dbb_avg.conv": optional(conv),
      "dbb_avg.bn.bn": optional(norm),
      "dbb_avg.avgbn": norm,
      "dbb_1x1_kxk.idconv1": optional(conv),
      "dbb_1x1_kxk.conv1": optional(conv),
      "dbb_1x1_kxk.bn1.bn": norm,
      "dbb_1x1_kxk.conv2": conv,
      "dbb_1x1_kxk.bn2": norm,
    },
    merged: "dbb_reparam",
    telling: true,
    build: (group) => {
      const [outChannels, perGroup, h, w] = group.shape("dbb_origin.conv.weight");
      const [internalChannels] = group.shape("dbb_1x1_kxk.bn1.bn.weight");
      const groups = internalChannels / group.shape("dbb_1x1_kxk.conv2.weight")[1];
      return new DBB({ inChannels: perGroup * groups, outChannels, kernelSize: [h, w], groups, internalChannels });
    },
  },
  ...Object.entries(dilatedBranches).map(([size, branches]): BlockKind => {
    const kernelSize = Number(size);
    return {
      name: `DilatedReparamBlock (${size}x${size})`,
      source: "UniRepLKNet",
      layers: {
        ...{ lk_origin: conv, origin_bn: norm },
        ...Object.fromEntries(
          branches.map(dilatedBranchName).flatMap((branch) => [
            [`dil_conv_${branch}`, conv],
            [`dil_bn_${branch}`, norm],
          ]),
        ),
      },
      merged: "lk_origin",
      // One size has the names of another.
      telling: false,
      fits: (group) => group.shape("lk_origin.weight").slice(1).join() === `1,${size},${size}`,
      build: (group) => new DilatedReparamBlock({ channels: group.shape("lk_origin.weight")[0], kernelSize }),
    };
  }),
  {
    name: "RVSRRepConv",
    source: "RVSR",
    layers: Object.fromEntries(
      ["expand", "fea", "reduce", "expand1", "fea1", "reduce1"]
        .map((name) => `${name}_conv`)
        .concat("res_conv3x3", "res_conv1x1")
        .map((name) => [name, biased]),
    ),
    merged: "rep_conv",
    telling: false,
    build: (group) => {
      const [wide, channels] = group.shape("expand_conv.weight");
      return new RVSRRepConv({ channels, expansion: wide / channels });
    },
  },
  {
    name: "ECB",
    source: "ECBSR",
    layers: {
      conv3x3: biased,
      conv1x1_3x3: layer("k0", "b0", "k1", "b1"),
      ...Object.fromEntries(
        ["sbx", "sby", "lpl"].map((name) => [`conv1x1_${name}`, layer("k0", "b0", "scale", "bias", "mask")]),
      ),
    },
    merged: "conv3x3",
    telling: false,
    build: (group, { identity }) => {
      const [outChannels, inChannels] = group.shape("conv3x3.weight");
      const [width] = group.shape("conv1x1_3x3.k0");
      if (inChannels === outChannels && identity === undefined) return { option: "identity", why: NO_PARAMETERS };
      return new ECB({
        ...{ inChannels, outChannels, depthMultiplier: width / outChannels },
        ...{ identity: inChannels === outChannels && identity === true, activation: "none" },
      });
    },
  },
  {
    name: "MBRConv",
    source: "MobileIE",
    layers: {
      conv: biased,
      "conv_bn.0": norm,
      ...Object.fromEntries(
        mbrBranches.flatMap((name) => [
          [name, optional(biased)],
          [`${name}_bn.0`, optional(norm)],
        ]),
      ),
      conv_out: biased,
    },
    merged: "",
    telling: false,
    fits: (group) => isPointwiseOver(group, 1 + mbrBranches.filter((name) => group.has(name)).length),
    build: (group) => {
      const [width, inChannels, kernelSize] = group.shape("conv.weight");
      const [outChannels] = group.shape("conv_out.weight");
      return new MBRConv({
        ...{ inChannels, outChannels, expansion: width / outChannels },
        kernelSize: odd(kernelSize),
      });
    },
  },
  {
    name: "MBRConv (EC)",
    source: "MobileIE, the compact form",
    layers: { conv: biased, bn: norm, conv_out: biased },
    merged: "",
    telling: false,
    fits: (group) => isPointwiseOver(group, 1),
    build: (group) => {
      const [width, inChannels, kernelSize] = group.shape("conv.weight");
      const [outChannels] = group.shape("conv_out.weight");
      const expansion = width / outChannels;
      return new MBRConv({ inChannels, outChannels, expansion, kernelSize: odd(kernelSize), compact: true });
    },
  },
  {
    name: "RepMLP",
    source: "RepMLP",
    layers: {
      "fc1_fc2.fc1": optional(biased),
      "fc1_fc2.fc2": optional(biased),
      "avg.bn": optional(norm),
      fc3: conv,
      fc3_bn: norm,
      "repconv#.conv": optional(conv),
      "repconv#.bn": optional(norm),
    },
    merged: "fc3",
    telling: false,
    fits: (group) => group.shape("fc3.weight").slice(2).join() === "1,1",
    build: (group, { partition }) => {
      const [rows, columns] = group.shape("fc3.weight");
      const kernels = group.numbers("repconv#.conv");
      const outChannels = kernels.length ? group.shape(`repconv${kernels[0]}.conv.weight`)[0] : rows;
      const area = rows / outChannels;
      if (area > 1 && partition === undefined)
        return {
          option: "partition",
          why: `height and width of a partition of ${area} pixels, by which kernels become a part of FC3`,
        };
      const [h, w] = partition ?? [1, 1];
      const channels = group.has("avg.bn") ? group.shape("avg.bn.weight")[0] : columns / (h * w);
      const partitions = group.has("fc1_fc2.fc1") ? group.shape("fc1_fc2.fc1.weight")[1] / channels : 1;
      return new RepMLP({
        ...{ inChannels: channels, outChannels, partition: [h, w], reparamConvKernels: kernels },
        ...{ height: h * partitions, width: w, groups: (channels * h * w) / columns },
        ...(partitions > 1 && {
          fc1Fc2Reduction: (channels * partitions) / group.shape("fc1_fc2.fc1.weight")[0],
        }),
      });
    },
  },
];

/** Whether `conv_out` takes the outputs of so many branches, with and without batch norm. */
function isPointwiseOver(group: BlockGroup, branches: number): boolean {
  const [, inputs, ...kernel] = group.shape("conv_out.weight");
  return kernel.join() === "1,1" && inputs === 2 * branches * group.shape("conv.weight")[0];
}

/** Kernel sizes that the block has; it refuses others itself. */
const odd = (kernelSize: number): 1 | 3 | 5 => kernelSize as 1 | 3 | 5;
