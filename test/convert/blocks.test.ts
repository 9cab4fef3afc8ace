import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  ACB,
  BnLinear,
  DBB,
  DilatedReparamBlock,
  ECB,
  LearnableRepLayer,
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
} from "../../src/blocks/index.ts";
import { type MergeBlocksOptions, mergeBlocks } from "../../src/convert/merge-blocks.ts";
import { convertBlocksFile } from "../../src/convert/node/blocks-file.ts";
import { BatchNorm, type Module } from "../../src/nn/index.ts";
import { openCheckpointFile, saveCheckpointFile } from "../../src/node.ts";
import { convertToDeploy, type Reparameterizable } from "../../src/reparam/index.ts";
import { rng, type Shape, sizeOf, Tensor, type TensorSource } from "../../src/tensor/index.ts";
import { repmlp, tempFolder } from "../cli/harness.ts";
import { withRandomState } from "../reparam/support.ts";

type Entries = Map<string, TensorSource>;

const forAll = <T>(value: T) => [{ pattern: "*", value }];
const eps = forAll(1e-5);

/** Values from key and shape; variances are positive. */
function tensor(key: string, shape: Shape): Tensor {
  const random = rng(5, key);
  const low = key.endsWith("running_var") ? 0.5 : -0.5;
  return Tensor.float32(
    shape,
    Float64Array.from({ length: sizeOf(shape) }, () => low + random.next()),
  );
}

const counter = (value: number): Tensor => Tensor.of("int64", [], [value]);

/** A layer's entries: a convolution by its shape, or a batch norm. */
const weights = (layer: string, shape: Shape): [string, Tensor][] => [
  [`${layer}.weight`, tensor(`${layer}.weight`, shape)],
];
const norm = (layer: string, channels: number): [string, Tensor][] => [
  ...["weight", "bias", "running_mean", "running_var"].map((name): [string, Tensor] => [
    `${layer}.${name}`,
    tensor(`${layer}.${name}`, [channels]),
  ]),
  [`${layer}.num_batches_tracked`, counter(3)],
];

const merged = (entries: Entries, options: MergeBlocksOptions = {}) => mergeBlocks(entries, { eps, ...options });
const values = (source: TensorSource | undefined): number[] => [...source!.readSync().toFloat64()];

/** A block's state dict under names that another author has, inside of some other network. */
function inNetwork(block: Module, rename: (key: string) => string, at = "neck.blocks.3."): Entries {
  return new Map<string, TensorSource>([
    ...weights("stem", [4, 3, 3, 3]),
    ...[...block.stateDict()].map(([key, t]): [string, TensorSource] => [at + rename(key), t]),
    ["anchors", Tensor.of("int64", [2], [1, 2])],
  ]);
}

interface KindCase {
  readonly name: string;
  readonly block: () => Module & Reparameterizable;
  /** Keys of others, by those of the block: pairs of layer names. */
  readonly names?: readonly (readonly [own: string, theirs: string])[];
  readonly options?: MergeBlocksOptions;
  /** Keys that stay as they are. */
  readonly untouched?: readonly string[];
}

const repvgg = (options: object = {}) => new RepVGGBlock({ inChannels: 8, outChannels: 8, groups: 2, ...options });
const yolov7 = [
  ["rbr_dense.conv", "rbr_dense.0"],
  ["rbr_dense.bn", "rbr_dense.1"],
  ["rbr_1x1.conv", "rbr_1x1.0"],
  ["rbr_1x1.bn", "rbr_1x1.1"],
] as const;
const timm = [
  ["rbr_dense", "conv_kxk"],
  ["rbr_1x1", "conv_1x1"],
  ["rbr_identity", "identity"],
  ["rbr_reparam", "reparam_conv"],
] as const;
const mobileOneNames = (scale: string) =>
  [
    ["rbr_conv", "conv_kxk"],
    ["rbr_scale", scale],
    ["rbr_skip", "identity"],
  ] as const;
const mobileone = (options: object = {}) =>
  new MobileOneBlock({ inChannels: 6, outChannels: 6, numConvBranches: 3, ...options });

const kinds: readonly KindCase[] = [
  { name: "RepVGG's", block: repvgg },
  { name: "RepVGG's without identity", block: () => repvgg({ outChannels: 6 }) },
  { name: "RepVGG's with stride", block: () => repvgg({ stride: 2, kernelSize: 5 }) },
  { name: "RepVGG's in timm", block: repvgg, names: timm },
  { name: "RepConv of YOLOv7", block: repvgg, names: yolov7 },
  {
    name: "RepConv of Ultralytics, with identity",
    block: () => new YoloRepConv({ inChannels: 8, outChannels: 8, groups: 2, identity: true }),
  },
  { name: "RepConv, where channels change", block: () => new YoloRepConv({ inChannels: 4, outChannels: 6 }) },
  {
    name: "RepVggBlock of RT-DETR, told which",
    block: () => new YoloRepConv({ inChannels: 4, outChannels: 4 }),
    options: { kind: forAll("RepConv") },
  },
  { name: "RepVGGDW of YOLOv10", block: () => new YoloRepVGGDW({ channels: 4 }) },
  ...[false, true].map((average) => ({
    name: `QARepVGG's of YOLOv6${average ? " with an average" : ""}`,
    block: () => new YoloQARepVGGBlock({ inChannels: 4, outChannels: 4, groups: 2, average }),
    options: { kind: forAll(average ? "QARepVGGBlockV2" : "QARepVGGBlock"), identity: forAll(true) },
  })),
  {
    name: "QARepVGG's without identity",
    block: () => new YoloQARepVGGBlock({ inChannels: 4, outChannels: 4, stride: 2 }),
    options: { kind: forAll("QARepVGGBlock"), identity: forAll(false) },
  },
  { name: "RepVGGDW of RepViT", block: () => new RepVGGDW(4) },
  { name: "a batch norm and then a linear layer", block: () => new BnLinear(4, 3) },
  { name: "MobileOne's", block: mobileone },
  { name: "MobileOne's, depthwise", block: () => mobileone({ groups: 6, kernelSize: 5 }) },
  { name: "MobileOne's, 1 x 1 and without identity", block: () => mobileone({ kernelSize: 1, outChannels: 4 }) },
  { name: "MobileOne's in timm", block: mobileone, names: mobileOneNames("conv_scale") },
  {
    name: "PP-OCR's LearnableRepLayer",
    block: () => new LearnableRepLayer({ inChannels: 6, outChannels: 6, groups: 2 }),
    untouched: ["lab.scale", "lab.bias", "act.lab.scale", "act.lab.bias"],
  },
  {
    name: "PP-OCR's LearnableRepLayer with stride",
    block: () => new LearnableRepLayer({ inChannels: 4, outChannels: 6, stride: 2, numConvBranches: 1 }),
    untouched: ["act.lab.scale"],
  },
  {
    name: "RepLKNet's large kernel",
    block: () =>
      new ReparamLargeKernelConv({ inChannels: 4, outChannels: 4, groups: 4, kernelSize: 9, smallKernel: 3 }),
  },
  {
    name: "the large kernel in timm",
    block: () => new ReparamLargeKernelConv({ inChannels: 4, outChannels: 8, groups: 4, kernelSize: 7 }),
    names: [
      ["lkb_origin", "large_conv"],
      ["lkb_reparam", "reparam_conv"],
    ],
  },
  { name: "ACNet's", block: () => new ACB({ inChannels: 4, outChannels: 6, kernelSize: 5, groups: 2 }) },
  { name: "ACNet's with bare norms", block: () => new ACB({ inChannels: 4, outChannels: 6, useAffine: false }) },
  { name: "DBB", block: () => new DBB({ inChannels: 4, outChannels: 6, groups: 2 }) },
  { name: "DBB, depthwise", block: () => new DBB({ inChannels: 4, outChannels: 4, groups: 4, kernelSize: 5 }) },
  { name: "DBB, wider inside", block: () => new DBB({ inChannels: 4, outChannels: 6, internalChannels: 8 }) },
  ...[5, 9, 13, 17].map((kernelSize) => ({
    name: `UniRepLKNet's, ${kernelSize} x ${kernelSize}`,
    block: () => new DilatedReparamBlock({ channels: 4, kernelSize }),
  })),
  { name: "RVSR's", block: () => new RVSRRepConv({ channels: 4, expansion: 3 }) },
  {
    name: "ECBSR's, where channels change",
    block: () => new ECB({ inChannels: 3, outChannels: 4, activation: "none" }),
  },
  {
    name: "ECBSR's with identity and activation",
    block: () => new ECB({ inChannels: 4, outChannels: 4, identity: true }),
    options: { identity: forAll(true) },
    untouched: ["act.weight"],
  },
  {
    name: "ECBSR's without identity",
    block: () => new ECB({ inChannels: 4, outChannels: 4, activation: "none" }),
    options: { identity: forAll(false) },
  },
  ...([1, 3, 5] as const).map((kernelSize) => ({
    name: `MobileIE's, ${kernelSize} x ${kernelSize}`,
    block: () => new MBRConv({ inChannels: 3, outChannels: 2, kernelSize }),
  })),
  { name: "MobileIE's compact one", block: () => new MBRConv({ inChannels: 3, outChannels: 2, compact: true }) },
  {
    name: "RepMLP",
    block: () =>
      new RepMLP({ inChannels: 4, height: 6, width: 4, partition: [3, 2], reparamConvKernels: [1, 3], groups: 2 }),
    options: { partition: forAll([3, 2] as const) },
  },
  {
    name: "RepMLP of one partition, without local kernels",
    block: () => new RepMLP({ inChannels: 4, height: 2, width: 2, partition: 2, groups: 2 }),
  },
];

describe("a block in an unknown network becomes what it is when it is merged", () => {
  test.for(kinds)("$name", async ({ block, names = [], options, untouched = [] }) => {
    const made = withRandomState(block(), 7).eval();
    const rename = (key: string): string =>
      names.reduce((k, [own, theirs]) => (k.startsWith(`${own}.`) ? theirs + k.slice(own.length) : k), key);
    const norms = [...made.modules()].map(([, m]) => m).filter((m) => m instanceof BatchNorm);
    const result = await merged(inNetwork(made, rename), { eps: forAll(norms[0]?.eps ?? 0), ...options });
    const expected = convertToDeploy(made).stateDict();
    const at = (key: string): string => `neck.blocks.3.${rename(key)}`;
    expect([...result.entries.keys()].sort()).toEqual(
      ["stem.weight", ...[...expected.keys()].map(at), "anchors"].sort(),
    );
    for (const [key, t] of expected) expect(values(result.entries.get(at(key))), key).toEqual(values(t));
    expect(values(result.entries.get("anchors"))).toEqual([1, 2]);
    expect(result.blocks.filter((b) => b.merged).map((b) => b.path)).toEqual(["neck.blocks.3"]);
    for (const key of untouched) expect(result.entries.has(at(key))).toBe(true);
  });

  test("by its own eps, not one that is usual", async () => {
    const made = withRandomState(repvgg(), 3).eval();
    const entries = inNetwork(made, (key) => key);
    for (const [, m] of made.modules()) if (m instanceof BatchNorm) Object.assign(m, { eps: 1e-2 });
    const expected = convertToDeploy(made).stateDict().get("rbr_reparam.weight");
    const answers = [...forAll(1e-5), { pattern: "neck.*", value: 1e-2 }];
    const { entries: actual } = await mergeBlocks(entries, { eps: answers });
    expect(values(actual.get("neck.blocks.3.rbr_reparam.weight"))).toEqual(values(expected));
  });
});

describe("what keys do not tell is asked for, all at once", () => {
  const asked: readonly (readonly [what: string, entries: () => Entries, message: RegExp])[] = [
    ["eps", () => inNetwork(withRandomState(repvgg()), (k) => k), /the eps of batch norms.*neck\.blocks\.3.*Say --eps/],
    [
      "whether the input is added",
      () => inNetwork(withRandomState(new ECB({ inChannels: 4, outChannels: 4 })), (k) => k),
      /whether the input itself is added.*--identity yes or no/,
    ],
    [
      "the sides of a partition, and eps",
      () =>
        inNetwork(
          withRandomState(new RepMLP({ inChannels: 2, height: 4, width: 4, partition: 2, reparamConvKernels: [1] })),
          (k) => k,
        ),
      /the eps of batch norms.*Nor height and width of a partition of 4 pixels.*--partition <height>x<width>/,
    ],
    [
      "whether two layers are branches or follow one another",
      () =>
        new Map([
          ...weights("a.conv1.conv", [4, 4, 3, 3]),
          ...norm("a.conv1.bn", 4),
          ...weights("a.conv2.conv", [4, 4, 1, 1]),
          ...norm("a.conv2.bn", 4),
        ]),
      /may be branches that are added up.*Say --kind RepConv, none/,
    ],
    [
      "which of two kinds with the same keys",
      () => inNetwork(withRandomState(new YoloQARepVGGBlock({ inChannels: 4, outChannels: 4 })), (k) => k),
      /QARepVGGBlock and QARepVGGBlockV2 have the same keys.*neck\.blocks\.3/,
    ],
    [
      "whether a convolution is transposed",
      () => new Map([...weights("up.0", [4, 4, 2, 2]), ...norm("up.1", 4)]),
      /even kernel are transposed convolutions \(up\.0\).*--transposed yes or no/,
    ],
  ];
  test.for(asked)("%s", async ([, entries, message]) => {
    await expect(mergeBlocks(entries())).rejects.toMatchObject({
      code: "blocks/ask",
      message: expect.stringMatching(message),
    });
  });

  test("layers that follow one another are merged as such when that was said", async () => {
    const { blocks } = await merged(asked[3][1](), { kind: forAll("none") });
    expect(blocks.map((b) => b.path)).toEqual(["a.conv1.conv", "a.conv2.conv"]);
  });

  test("layers whose shapes say that they follow one another are not taken for branches", async () => {
    const entries: Entries = new Map([
      ...weights("a.conv1.conv", [2, 4, 1, 1]),
      ...norm("a.conv1.bn", 2),
      ...weights("a.conv2.conv", [4, 2, 3, 3]),
      ...norm("a.conv2.bn", 4),
    ]);
    expect((await merged(entries)).blocks.map((b) => b.path)).toEqual(["a.conv1.conv", "a.conv2.conv"]);
  });

  test("a transposed convolution has its outputs on the second axis, in groups, too", async () => {
    const entries: Entries = new Map([...weights("up.0", [4, 2, 2, 2]), ...norm("up.1", 4)]);
    const { entries: actual } = await merged(entries, { transposed: forAll(true) });
    const at = (key: string): number[] => values(entries.get(key));
    const scale = at("up.1.weight").map((g, i) => g / Math.sqrt(at("up.1.running_var")[i] + 1e-5));
    // Rows 0 and 1 are the first group's inputs, which has the outputs 0 and 1; rows 2 and 3 the second's.
    const expected = at("up.0.weight").map((w, i) => w * scale[(i >= 16 ? 2 : 0) + (Math.floor(i / 4) % 2)]);
    for (const [i, v] of values(actual.get("up.0.weight")).entries()) expect(v).toBeCloseTo(expected[i], 6);
    expect(actual.get("up.0.bias")?.shape).toEqual([4]);
  });
});

describe("convolutions and the batch norms after them, by their names", () => {
  const pairs: readonly (readonly [layer: string, norm: string])[] = [
    ["conv", "bn"],
    ["c", "bn"],
    ["x.conv", "x.norm"],
    ["x.conv2", "x.bn2"],
    ["stage.0", "stage.1"],
    ["x.conv_dw", "x.bn_dw"],
    ["head_conv", "head_bn"],
    ["dw", "dw_bn"],
    ["backbone.conv1", "backbone.conv1.norm"],
  ];
  test.for(pairs)("%s and %s", async ([layer, bn]) => {
    const entries: Entries = new Map([
      ...weights(layer, [3, 2, 3, 3]),
      [`${layer}.bias`, tensor("bias", [3])],
      ...norm(bn, 3),
      ...weights("other", [1, 1, 1, 1]),
    ]);
    const { entries: actual } = await merged(entries);
    expect([...actual.keys()]).toEqual([`${layer}.weight`, `${layer}.bias`, "other.weight"]);
    const at = (key: string): number[] => values(entries.get(key));
    const scale = at(`${bn}.weight`).map((g, i) => g / Math.sqrt(at(`${bn}.running_var`)[i] + 1e-5));
    for (const [i, w] of at(`${layer}.weight`).entries())
      expect(values(actual.get(`${layer}.weight`))[i]).toBeCloseTo(w * scale[Math.floor(i / 18)], 6);
    for (const [i, b] of at(`${layer}.bias`).entries())
      expect(values(actual.get(`${layer}.bias`))[i]).toBeCloseTo(
        at(`${bn}.bias`)[i] + (b - at(`${bn}.running_mean`)[i]) * scale[i],
        6,
      );
  });

  const kept: readonly (readonly [what: string, entries: [string, TensorSource][], reason: RegExp])[] = [
    [
      "a non-linearity between",
      [...weights("s.0", [3, 3, 1, 1]), ...norm("s.2", 3)],
      /between it and s\.0 stands something without weights/,
    ],
    [
      "another size",
      [...weights("conv1", [4, 3, 1, 1]), ...norm("bn1", 5)],
      /is not the number of outputs of conv1, 4/,
    ],
    ["the size of the inputs", [...weights("conv1", [4, 3, 1, 1]), ...norm("bn1", 3)], /it comes before that/],
    ["first in the file", [...norm("bn1", 4), ...weights("conv1", [4, 4, 1, 1])], /it stands before conv1 in the file/],
    [
      "as another one that comes before",
      [
        ...weights("a.conv1", [8, 4, 1, 1]),
        ...norm("a.bn1", 4),
        ...weights("b.conv1", [8, 8, 3, 3]),
        ...norm("b.bn1", 8),
      ],
      /it may come before b\.conv1, as a\.bn1 does/,
    ],
    ["nothing before it", norm("lonely", 3), /no convolution or fully connected layer is named/],
    [
      "two norms after one layer",
      [...weights("conv", [2, 2, 1, 1]), ...norm("bn", 2), ...norm("conv.norm", 2)],
      /conv has several batch norms: its weights are shared/,
    ],
  ];
  test.for(kept)("stay where they may not be merged: %s", async ([, entries, reason]) => {
    const result = await merged(
      new Map<string, TensorSource>([...entries, ...weights("sure.0", [2, 2, 1, 1]), ...norm("sure.1", 2)]),
      {
        ordered: true,
      },
    );
    expect(result.blocks.filter((b) => b.merged).map((b) => b.path)).toEqual(["sure.0"]);
    expect(result.blocks.map((b) => b.note).join("\n")).toMatch(reason);
    for (const [key, t] of entries) expect(result.entries.get(key)).toBe(t);
  });

  test("all of them when that is wanted", async () => {
    const entries = inNetwork(withRandomState(repvgg()), (k) => k);
    for (const [key, t] of [...weights("last.0", [2, 2, 1, 1]), ...norm("last.1", 2)]) entries.set(key, t);
    const { entries: actual } = await merged(entries, { keepPairs: true });
    expect(actual.has("last.1.running_var")).toBe(true);
    expect(actual.has("neck.blocks.3.rbr_reparam.weight")).toBe(true);
  });
});

describe("refused by name and reason", () => {
  const block = (at: string): Entries => inNetwork(withRandomState(repvgg()), (k) => k, at);
  const changed = (entries: Entries, change: (entries: Entries) => void): Entries => {
    change(entries);
    return entries;
  };
  const same = tensor("shared", [8, 4, 3, 3]);
  const refusals: readonly (readonly [what: string, entries: Entries, code: string, message: RegExp])[] = [
    [
      "a member is missing",
      changed(block("a."), (e) => e.delete("a.rbr_1x1.bn.running_var")),
      "blocks/broken",
      /a \(RepVGGBlock\): a\.rbr_1x1\.bn\.running_var is missing/,
    ],
    [
      "norms that always took the statistics of their batch",
      changed(block("a."), (e) => {
        for (const key of [...e.keys()]) if (/running|tracked/.test(key)) e.delete(key);
      }),
      "blocks/broken",
      /a \(RepVGGBlock\): a\.rbr_dense\.bn\.running_mean is missing: norms in training mode have no equal merged form/,
    ],
    [
      "a whole branch is missing",
      changed(block("a."), (e) => {
        for (const key of [...e.keys()]) if (key.startsWith("a.rbr_dense")) e.delete(key);
      }),
      "blocks/broken",
      /a \(RepVGGBlock\): a\.rbr_dense\.conv\.weight, a\.rbr_dense\.bn\.weight/,
    ],
    [
      "norms of which only some have weights",
      changed(
        inNetwork(withRandomState(new ACB({ inChannels: 2, outChannels: 2 })), (k) => k, "a."),
        (e) => {
          for (const name of ["weight", "bias"]) e.delete(`a.square_bn.${name}`);
        },
      ),
      "blocks/broken",
      /a \(ACB.*(ver|hor)_bn\.(weight|bias) has no place/,
    ],
    [
      "branches do not fit: a stride or channels",
      changed(block("a."), (e) => {
        for (const [key, t] of norm("a.rbr_identity", 4)) e.set(key, t);
      }),
      "blocks/broken",
      /a\.rbr_identity\.weight is \[4\], beside the others it would be \[8\]: channels or strides/,
    ],
    [
      "branches and what they are merged into",
      changed(block("a."), (e) => e.set("a.rbr_reparam.weight", same)),
      "blocks/broken",
      /a \(RepVGGBlock\): holds branches and a\.rbr_reparam\.weight, too: it is merged in part/,
    ],
    [
      "some blocks are merged already",
      changed(block("a."), (e) => e.set("b.rbr_reparam.weight", same)),
      "blocks/half-merged",
      /of 2 blocks with rbr_reparam 1 are merged already\. b is merged/,
    ],
    [
      "weights shared with another block",
      changed(new Map([...block("a."), ...block("b.")]), (e) => {
        for (const at of ["a", "b"]) e.set(`${at}.rbr_dense.conv.weight`, same);
      }),
      "blocks/broken",
      /a \(RepVGGBlock\): shares a\.rbr_dense\.conv\.weight with b\.rbr_dense\.conv\.weight/,
    ],
    ["nothing is known", new Map(weights("fc", [2, 2])), "blocks/none", /holds no block that is known by its keys/],
  ];
  test.for(refusals)("%s", async ([, entries, code, message]) => {
    await expect(merged(entries)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  test("and left out when that is wanted", async () => {
    const entries: Entries = new Map([...refusals[0][1], ...block("b.")]);
    const { entries: actual, blocks } = await merged(entries, { skip: ["a"] });
    expect(blocks.filter((b) => b.merged).map((b) => b.path)).toEqual(["b"]);
    expect(actual.get("a.rbr_dense.conv.weight")).toBe(entries.get("a.rbr_dense.conv.weight"));
  });

  test("one block that is in two places is merged in both", async () => {
    const one = withRandomState(repvgg());
    const entries = new Map([...inNetwork(one, (k) => k, "a."), ...inNetwork(one, (k) => k, "b.")]);
    const { entries: actual } = await merged(entries);
    expect(values(actual.get("a.rbr_reparam.bias"))).toEqual(values(actual.get("b.rbr_reparam.bias")));
  });

  test("batch norms that no batch went through are told", async () => {
    const entries = block("a.");
    expect((await merged(entries)).warnings.length).toBe(1);
    for (const key of entries.keys()) if (key.endsWith("tracked")) entries.set(key, counter(9));
    expect((await merged(entries)).warnings).toEqual([]);
    entries.set("a.rbr_identity.running_mean", Tensor.zeros("float32", [8]));
    entries.set("a.rbr_identity.running_var", Tensor.full("float32", [8], 1));
    expect((await merged(entries)).warnings[0]).toMatch(/1 batch norms.*a\.rbr_identity/);
  });
});

describe("files", () => {
  const folder = tempFolder();
  const at = (name: string): string => join(folder, name);
  const entries = inNetwork(withRandomState(repvgg()), (k) => k, "net.neck.");

  test("come out with the keys that they had; one prefix when that is wanted", async () => {
    await saveCheckpointFile(at("in.pth"), entries);
    await convertBlocksFile(at("in.pth"), at("out.safetensors"), { eps });
    using whole = await openCheckpointFile(at("out.safetensors"));
    expect([...whole.entries.keys()]).toContain("net.neck.rbr_reparam.weight");
    expect(whole.entries.get("anchors")?.dtype).toBe("int64");
    const report = await convertBlocksFile(at("in.pth"), at("net.pth"), { eps, prefix: "net." });
    using part = await openCheckpointFile(at("net.pth"));
    expect([...part.entries.keys()]).toEqual(["neck.rbr_reparam.weight", "neck.rbr_reparam.bias"]);
    expect(report.remarks.join()).toMatch(/2 tensors elsewhere were left out/);
    await expect(convertBlocksFile(at("in.pth"), at("x.pth"), { eps, prefix: "nett." })).rejects.toMatchObject({
      code: "detect/prefix",
    });
  });

  test("are rounded once to another type", async () => {
    await convertBlocksFile(at("in.pth"), at("exact.pth"), { eps, dtype: "float64" });
    await convertBlocksFile(at("in.pth"), at("half.pth"), { eps, dtype: "float16" });
    using exact = await openCheckpointFile(at("exact.pth"));
    using half = await openCheckpointFile(at("half.pth"));
    const key = "net.neck.rbr_reparam.weight";
    expect(half.entries.get(key)?.readSync().data).toEqual(exact.entries.get(key)?.readSync().cast("float16").data);
  });

  test("on the command line", async () => {
    const asked = await repmlp(["convert", "--blocks", at("in.pth"), at("cli.pth")]);
    expect(asked.code).toBe(2);
    expect(asked.stderr).toContain("Say --eps <x>");
    const told = await repmlp(["convert", "--blocks", at("in.pth"), at("cli.pth"), "--eps", "net.*=1e-5", "--json"]);
    expect(JSON.parse(told.stdout)).toMatchObject({ kinds: { RepVGGBlock: 1 }, blocks: { merged: 1, left: 0 } });
    const other = await repmlp(["convert", at("in.pth"), at("cli.pth"), "--eps", "1e-5"]);
    expect(other.stderr).toContain("--eps does not apply to a checkpoint without --blocks");
    const wrong = await repmlp(["convert", "--blocks", at("in.pth"), at("cli.pth"), "--eps", "tiny"]);
    expect(wrong.stderr).toContain("--eps tiny: must be a number from 0");
  });
});
