import fc from "fast-check";
import {
  ACB,
  AuxiliaryHead,
  BaseBlock,
  BnLinear,
  BottleneckBlock,
  branchKinds,
  Conv2dBn,
  ConvBn,
  type ConvBnOptions,
  ConvBnRelu,
  DBB,
  DilatedReparamBlock,
  DistilledClassifier,
  ECB,
  IndexedConvBn,
  insertBatchNorms,
  LightBlock,
  LinearBn,
  MBRConv,
  MobileOneBlock,
  type MobileOneBlockOptions,
  QARepVGGBlock,
  QARepVGGBlockV1,
  ReparamLargeKernelConv,
  RepCPE,
  type RepCPEOptions,
  RepMixer,
  type RepMixerOptions,
  RepMLP,
  RepMLPBlock,
  RepMLPConv,
  type RepMLPOptions,
  RepVGGBlock,
  RepVGGConv,
  RepVGGDW,
  RepVGGplusBlock,
  ResidualConv2dBn,
  RVSRRepConv,
  replaceConvs,
  SegmentationHead,
  UniRepLKNetBlock,
} from "../../src/blocks/index.ts";
import type { Pair } from "../../src/graph/index.ts";
import type { Net } from "../../src/nn/index.ts";
import * as nn from "../../src/nn/index.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import type { Shape } from "../../src/tensor/index.ts";
import { mobileConfigs } from "./mobile-configurations.ts";
import { randomTensor, withAnyNorms, withRandomState } from "./support.ts";

/** A network by its options, so that a failure can be read. */
export interface Config {
  readonly block: string;
  readonly options: object;
  /** Input, batch included. */
  readonly shape: Shape;
  readonly build: () => Net;
}

export interface RepMLPConfig extends Config {
  readonly options: Required<RepMLPOptions> & { readonly partition: Pair };
}

const SEED = 20210505;
const size = (max: number): fc.Arbitrary<number> => fc.integer({ min: 1, max });
/** Odd, in any order, up to more than twice the largest partition. */
const kernels = fc.uniqueArray(fc.constantFrom(1, 3, 5, 7, 9, 11), { maxLength: 4 });
/** A map of one partition, or of several of which the last may be cut off. */
const beyond = fc.oneof(fc.constant([0, 0] as const), fc.tuple(fc.nat(8), fc.nat(8)));

const inner = fc
  .record({
    partition: fc.tuple(size(5), size(5)),
    beyond,
    reparamConvKernels: kernels,
    groups: size(4),
    fc1Fc2Reduction: size(3),
  })
  .map(({ beyond, partition, ...o }) => ({
    ...o,
    partition,
    height: partition[0] + beyond[0],
    width: partition[1] + beyond[1],
  }));

const repmlp = fc
  .record({ inner, channels: fc.tuple(size(3), size(3)), batch: size(3), seed: fc.nat(1000) })
  .filter((r) => r.inner.fc1Fc2Reduction <= r.inner.groups * r.channels[0])
  .map(({ inner, channels: [c, o], batch, seed }): RepMLPConfig => {
    // Drawn from the seed, so that the other draws stay what they were.
    const globalPerceptron = seed % 8 !== 0;
    const options = { inChannels: c * inner.groups, outChannels: o * inner.groups, ...inner, globalPerceptron };
    return {
      block: "RepMLP",
      options,
      shape: [batch, options.inChannels, inner.height, inner.width],
      build: () => withRandomState(new RepMLP(options), seed).eval(),
    };
  });

const repmlpConv = repmlp.map(({ options, shape }): Config => {
  const kernelSize = Math.max(3, ...options.reparamConvKernels);
  return {
    block: "RepMLPConv",
    options: { ...options, kernelSize },
    shape,
    build: () => withRandomState(new RepMLPConv({ ...options, kernelSize }), shape[0]).eval(),
  };
});

const acb = fc
  .record({
    groups: size(3),
    channels: fc.tuple(size(3), size(3)),
    kernelSize: fc.tuple(fc.constantFrom(1, 3, 3, 5), fc.constantFrom(1, 3, 3, 5)),
    stride: fc.tuple(size(3), size(3)),
    // More and less than half the kernel, so that narrow kernels get padding across them or a cut input.
    padding: fc.tuple(fc.nat(4), fc.nat(4)),
    dilation: size(2),
    useAffine: fc.constantFrom(true, true, false),
    seed: fc.nat(1000),
  })
  .map(({ groups, channels: [c, o], seed, ...rest }): Config => {
    const options = { inChannels: c * groups, outChannels: o * groups, groups, ...rest };
    return {
      block: "ACB",
      options,
      shape: [2, c * groups, 11, 10],
      build: () => withAnyNorms(new ACB(options), seed).eval(),
    };
  });

const dbb = fc
  .record({
    kind: fc.constantFrom("any", "any", "same", "depthwise"),
    groups: size(3),
    channels: fc.tuple(size(3), fc.integer({ min: 2, max: 4 })),
    kernelSize: fc.tuple(fc.constantFrom(1, 3, 3, 5), fc.constantFrom(1, 3, 3, 5)),
    even: fc.constantFrom(0, 0, 0, 1),
    stride: fc.tuple(size(3), size(3)),
    dilation: fc.tuple(size(2), size(2)),
    internal: fc.option(size(4), { nil: undefined }),
    seed: fc.nat(1000),
  })
  .map(({ kind, groups, channels: [c, o], kernelSize: [kh, kw], even, internal, seed, ...rest }): Config => {
    const depthwise = kind === "depthwise";
    const outChannels = depthwise ? groups : o * groups;
    const options = {
      ...{ inChannels: kind === "any" ? c * groups : outChannels, outChannels, groups },
      kernelSize: depthwise ? ([kh + even, kw + even] as const) : ([kh, kw] as const),
      ...(internal && { internalChannels: internal * groups }),
      ...rest,
    };
    return {
      block: "DBB",
      options,
      shape: [2, options.inChannels, 9, 8],
      build: () => withAnyNorms(new DBB(options), seed).eval(),
    };
  });

const branched = fc
  .record({
    kind: fc.constantFrom(...branchKinds),
    unit: fc.constantFrom("Conv2d", "ConvBn", "ConvBnRelu"),
    bias: fc.boolean(),
    groups: size(3),
    channels: fc.tuple(size(3), fc.integer({ min: 2, max: 4 })),
    kernelSize: fc.constantFrom(3, 3, 5),
    stride: size(2),
    dilation: size(2),
    seed: fc.nat(1000),
  })
  .map(({ kind, unit, bias, groups, channels: [c, o], seed, ...rest }): Config => {
    const options = { ...rest, groups, padding: (rest.dilation * (rest.kernelSize - 1)) / 2 };
    const [inChannels, outChannels] = [c * groups, o * groups];
    const units = {
      Conv2d: () => new nn.Conv2d(inChannels, outChannels, { ...options, bias }),
      ConvBn: () => new ConvBn(inChannels, outChannels, options),
      ConvBnRelu: () => new ConvBnRelu(inChannels, outChannels, options),
    };
    return {
      block: "BranchedConv",
      options: { kind, unit, bias, inChannels, outChannels, ...options },
      shape: [2, inChannels, 9, 8],
      build: () => withAnyNorms(replaceConvs<Net>(units[unit as keyof typeof units](), kind), seed).eval(),
    };
  });

const normed = fc
  .record({
    unit: fc.constantFrom("Conv2d", "Conv2d without bias", "ConvBnRelu"),
    groups: size(3),
    channels: fc.tuple(size(3), size(4)),
    kernelSize: size(4),
    stride: size(2),
    padding: fc.nat(2),
    seed: fc.nat(1000),
  })
  .map(({ unit, channels: [c, o], seed, ...rest }): Config => {
    const [inChannels, outChannels] = [c * rest.groups, o * rest.groups];
    const make = (): Net =>
      unit === "ConvBnRelu"
        ? convertToDeploy(new ConvBnRelu(inChannels, outChannels, rest).eval())
        : new nn.Conv2d(inChannels, outChannels, { ...rest, bias: unit === "Conv2d" });
    return {
      block: "NormedConv",
      options: { unit, inChannels, outChannels, ...rest },
      shape: [2, inChannels, 9, 8],
      build: () => withAnyNorms(insertBatchNorms(make()), seed).eval(),
    };
  });

const residual = fc
  .record({
    block: fc.constantFrom("LightBlock", "BottleneckBlock", "BaseBlock"),
    inner,
    inChannels: fc.constantFrom(3, 8),
    outChannels: fc.constantFrom(5, 8),
    stride: size(2),
    seed: fc.nat(1000),
  })
  .map(({ block, inner, inChannels, outChannels, stride, seed }): Config => {
    const groups = 2 ** (inner.groups % 3);
    const around = { inChannels, midChannels: 8, outChannels };
    const options = { ...around, ...inner, groups, fc1Fc2Reduction: 1, ...(block === "BaseBlock" ? { stride } : {}) };
    const build = (): Net => {
      if (block === "LightBlock") return new LightBlock(options);
      return block === "BaseBlock" ? new BaseBlock(options) : new BottleneckBlock({ ...options, reduction: 2 });
    };
    return {
      block,
      options,
      shape: [2, inChannels, inner.height, inner.width],
      build: () => withRandomState(build(), seed).eval(),
    };
  });

const convBn = fc
  .record({
    relu: fc.boolean(),
    groups: size(3),
    channels: fc.tuple(size(3), size(3)),
    kernelSize: fc.tuple(size(4), size(4)),
    stride: fc.tuple(size(3), size(3)),
    padding: fc.tuple(fc.nat(3), fc.nat(3)),
    dilation: size(2),
    seed: fc.nat(1000),
  })
  .map(({ relu, groups, channels: [c, o], seed, ...rest }): Config => {
    const options = { ...rest, groups };
    const Unit = relu ? ConvBnRelu : ConvBn;
    return {
      block: Unit.name,
      options: { inChannels: c * groups, outChannels: o * groups, ...options },
      shape: [2, c * groups, 11, 9],
      build: () => withAnyNorms(new Unit(c * groups, o * groups, options), seed).eval(),
    };
  });

const repvgg = fc
  .record({
    groups: size(4),
    channels: fc.tuple(size(3), size(3)),
    same: fc.boolean(),
    kernelSize: fc.constantFrom(1, 3, 3, 3, 5),
    stride: fc.constantFrom(1, 1, 2, 3),
    dilation: fc.constantFrom(1, 1, 2, 3),
    useSe: fc.boolean(),
    seed: fc.nat(1000),
  })
  .map(({ groups, channels: [c, o], same, useSe, seed, ...rest }) => {
    // Squeeze-and-excitation needs 16 channels for each of its hidden layer.
    const factor = groups * (useSe ? Math.ceil(16 / groups) : 1);
    const [inChannels, outChannels] = [factor * c, factor * (same ? c : o)];
    const options = { inChannels, outChannels, groups, useSe, ...rest };
    const config = <O extends object>(Block: new (options: O) => Net, own: O): Config => ({
      block: Block.name,
      options: own,
      shape: [2, inChannels, 5, 7],
      build: () => withAnyNorms(new Block(own), seed).eval(),
    });
    const { useSe: usePostSe, ...plain } = options;
    return {
      block: config(RepVGGBlock, options),
      conv: config(RepVGGConv, options),
      plus: config(RepVGGplusBlock, { ...plain, usePostSe }),
      qa: config(QARepVGGBlock, plain),
      qaV1: config(QARepVGGBlockV1, plain),
    };
  });

const mobileone = fc
  .record({
    groups: size(4),
    channels: fc.tuple(size(3), size(3)),
    same: fc.boolean(),
    kernelSize: fc.constantFrom(1, 3, 3, 5),
    stride: fc.constantFrom(1, 1, 2, 3),
    dilation: fc.constantFrom(1, 1, 2),
    numConvBranches: fc.nat(4),
    useScaleBranch: fc.boolean(),
    useSe: fc.boolean(),
    activation: fc.constantFrom("relu", "gelu", "none"),
    seed: fc.nat(1000),
  })
  // Some branch has to be left.
  .filter((r) => r.numConvBranches > 0 || (r.useScaleBranch && r.kernelSize > 1) || (r.same && r.stride === 1))
  .map(({ groups, channels: [c, o], same, useSe, seed, ...rest }): Config => {
    // Squeeze-and-excitation needs 16 channels for each of its hidden layer.
    const factor = groups * (useSe ? Math.ceil(16 / groups) : 1);
    const [inChannels, outChannels] = [factor * c, factor * (same ? c : o)];
    const options: MobileOneBlockOptions = { inChannels, outChannels, groups, useSe, ...rest };
    return {
      block: "MobileOneBlock",
      options,
      shape: [2, inChannels, 5, 7],
      build: () => withAnyNorms(new MobileOneBlock(options), seed).eval(),
    };
  });

const largeKernel = fc
  .record({
    groups: size(4),
    channels: fc.tuple(size(3), size(3)),
    depthwise: fc.boolean(),
    kernelSize: fc.constantFrom(5, 7, 9, 13, 17),
    smallKernel: fc.constantFrom(undefined, 1, 3, 5),
    stride: fc.constantFrom(1, 1, 2, 3),
    seed: fc.nat(1000),
  })
  .map(({ groups, channels: [c, o], depthwise, seed, ...rest }): Config => {
    const inChannels = groups * c;
    const outChannels = depthwise ? inChannels * o : groups * o;
    const options = { inChannels, outChannels, groups: depthwise ? inChannels : groups, ...rest };
    return {
      block: "ReparamLargeKernelConv",
      options,
      shape: [2, inChannels, 9, 12],
      build: () => withAnyNorms(new ReparamLargeKernelConv(options), seed).eval(),
    };
  });

const rvsr = fc.record({ channels: size(6), expansion: size(3), batch: size(2), seed: fc.nat(1000) }).map(
  ({ batch, seed, ...options }): Config => ({
    block: "RVSRRepConv",
    options,
    shape: [batch, options.channels, 5, 4],
    build: () => withRandomState(new RVSRRepConv(options), seed).eval(),
  }),
);

const ecb = fc
  .record({
    channels: fc.tuple(size(5), size(5)),
    depthMultiplier: fc.constantFrom(1, 1.5, 2, 3),
    identity: fc.boolean(),
    activation: fc.constantFrom("prelu", "relu", "none"),
    seed: fc.nat(1000),
  })
  .map(({ channels: [c, o], identity, seed, ...rest }): Config => {
    const options = { inChannels: identity ? o : c, outChannels: o, identity, ...rest };
    return {
      block: "ECB",
      options,
      shape: [2, options.inChannels, 4, 6],
      build: () => withRandomState(new ECB(options), seed).eval(),
    };
  });

const mbrConv = fc
  .record({
    inChannels: size(4),
    outChannels: size(4),
    kernelSize: fc.constantFrom(1, 3, 5),
    compact: fc.boolean(),
    expansion: size(4),
    seed: fc.nat(1000),
  })
  .map(
    ({ seed, ...options }): Config => ({
      block: "MBRConv",
      options,
      shape: [2, options.inChannels, 6, 5],
      build: () => withAnyNorms(new MBRConv(options), seed).eval(),
    }),
  );

const repmlpBlock = fc
  .record({
    partition: fc.tuple(size(5), size(5)),
    counts: fc.tuple(size(3), size(3)),
    reparamConvKernels: kernels,
    shareSets: size(4),
    perSet: size(3),
    globalReduction: size(3),
    scramblePartitions: fc.boolean(),
    batch: size(3),
    seed: fc.nat(1000),
  })
  .filter((r) => r.globalReduction <= r.perSet * r.shareSets)
  .map(({ counts, perSet, batch, seed, ...rest }): Config => {
    const options = { channels: perSet * rest.shareSets, ...rest };
    return {
      block: "RepMLPBlock",
      options,
      shape: [batch, options.channels, counts[0] * rest.partition[0], counts[1] * rest.partition[1]],
      build: () => withAnyNorms(new RepMLPBlock(options), seed).eval(),
    };
  });

const channels = size(9);

const repvggdw = fc.record({ channels, seed: fc.nat(1000) }).map(
  ({ channels, seed }): Config => ({
    ...{ block: "RepVGGDW", options: { channels }, shape: [2, channels, 5, 7] },
    build: () => withAnyNorms(new RepVGGDW(channels), seed).eval(),
  }),
);

const residualConv = fc
  .record({
    groups: size(4),
    perGroup: size(3),
    kernelSize: fc.tuple(fc.constantFrom(1, 3, 5), fc.constantFrom(1, 3, 5)),
    dilation: size(2),
    seed: fc.nat(1000),
  })
  .map(({ groups, perGroup, kernelSize, dilation, seed }): Config => {
    const padding = kernelSize.map((k) => (dilation * (k - 1)) / 2) as [number, number];
    const [c, options] = [groups * perGroup, { kernelSize, padding, dilation, groups }];
    return {
      ...{ block: "ResidualConv2dBn", options: { channels: c, ...options }, shape: [2, c, 6, 5] },
      build: () => withAnyNorms(new ResidualConv2dBn(new Conv2dBn(c, c, options)), seed).eval(),
    };
  });

const conv2dBn = convBn.map(
  ({ options, shape }): Config => ({
    ...{ block: "Conv2dBn", options, shape },
    build: () => {
      const { inChannels, outChannels, ...rest } = options as ConvBnOptions & Readonly<Record<string, number>>;
      return withAnyNorms(new Conv2dBn(inChannels, outChannels, rest), inChannels).eval();
    },
  }),
);

const classifier = fc
  .record({ inFeatures: channels, numClasses: channels, distillation: fc.boolean(), seed: fc.nat(1000) })
  .map(
    ({ seed, ...options }): Config => ({
      ...{ block: "DistilledClassifier", options, shape: [3, options.inFeatures] },
      build: () => withAnyNorms(new DistilledClassifier(options), seed).eval(),
    }),
  );

const bnLinear = fc.record({ inFeatures: channels, outFeatures: channels, seed: fc.nat(1000) }).map(
  ({ seed, ...options }): Config => ({
    ...{ block: "BnLinear", options, shape: [3, options.inFeatures] },
    build: () => withAnyNorms(new BnLinear(options.inFeatures, options.outFeatures), seed).eval(),
  }),
);

const repMixer = fc
  .record({
    channels: size(6),
    kernelSize: fc.constantFrom(1, 3, 3, 5, 7),
    useLayerScale: fc.boolean(),
    seed: fc.nat(1000),
  })
  .map(({ seed, ...options }): Config => {
    const build = (): Net => {
      const mixer = withAnyNorms(new RepMixer(options satisfies RepMixerOptions), seed).eval();
      // The initial one is so small that a mistake would not show.
      mixer.layerScale?.set(randomTensor(mixer.layerScale.shape, `${seed}/scale`));
      return mixer;
    };
    return { block: "RepMixer", options, shape: [2, options.channels, 5, 7], build };
  });

const repCPE = fc
  .record({
    channels: size(6),
    kernelSize: fc.tuple(fc.constantFrom(1, 3, 5, 7), fc.constantFrom(1, 3, 7)),
    seed: fc.nat(1000),
  })
  .map(
    ({ seed, ...options }): Config => ({
      block: "RepCPE",
      options,
      shape: [2, options.channels, 5, 7],
      build: () => withRandomState(new RepCPE(options satisfies RepCPEOptions), seed).eval(),
    }),
  );

const sample = <T>(from: fc.Arbitrary<T>, numRuns: number): T[] => fc.sample(from, { numRuns, seed: SEED });

export const repmlpConfigs = sample(repmlp, 240);
export const repmlpConvConfigs = sample(repmlpConv, 200);
export const acbConfigs = sample(acb, 200);
export const dbbConfigs = sample(dbb, 240);
export const branchedConfigs = sample(branched, 200);
export const residualConfigs = sample(residual, 40);
export const convBnConfigs = sample(convBn, 460);
const repvggUnits = sample(repvgg, 200);
export const repvggConfigs = repvggUnits.map(({ block }) => block);
export const qarepvggConfigs = repvggUnits.map(({ qa }) => qa);
export const rvsrConfigs = sample(rvsr, 200);
export const ecbConfigs = sample(ecb, 200);
export const mbrConvConfigs = sample(mbrConv, 200);

export const mobileoneConfigs = sample(mobileone, 200);
export const largeKernelConfigs = sample(largeKernel, 200);
export const repmlpBlockConfigs = sample(repmlpBlock, 200);
export const repvitConfigs = [repvggdw, residualConv, conv2dBn, classifier, bnLinear].flatMap((b) => sample(b, 200));

const named = (configs: readonly Config[], ...names: readonly string[]): Readonly<Record<string, readonly Config[]>> =>
  Object.fromEntries(names.map((name) => [name, configs.filter(({ block }) => block === name)]));

const indexedConfigs = sample(convBn, 200).map(({ options, shape }): Config => {
  const { inChannels, outChannels, ...rest } = options as ConvBnOptions & Readonly<Record<string, number>>;
  return {
    ...{ block: "IndexedConvBn", options, shape },
    build: () => withAnyNorms(new IndexedConvBn(inChannels, outChannels, { ...rest, bias: true }), inChannels).eval(),
  };
});
export const repMixerConfigs = sample(repMixer, 200);
export const repCPEConfigs = sample(repCPE, 200);

const dilatedReparam = fc
  .record({ channels: size(5), kernelSize: fc.constantFrom(5, 7, 9, 11, 13, 15, 17), seed: fc.nat(1000) })
  .map(
    ({ seed, ...options }): Config => ({
      block: "DilatedReparamBlock",
      options,
      shape: [2, options.channels, 8, 11],
      build: () => withAnyNorms(new DilatedReparamBlock(options), seed).eval(),
    }),
  );
export const dilatedReparamConfigs = sample(dilatedReparam, 200);

const unireplk = fc
  .record({
    quarter: size(3),
    kernelSize: fc.constantFrom(3, 5, 7, 9, 11, 13),
    ffnFactor: fc.constantFrom(1, 2, 4),
    layerScaleInitValue: fc.constantFrom(0, 0.5),
    seed: fc.nat(1000),
  })
  .map(({ quarter, seed, ...rest }): Config => {
    const options = { dim: 4 * quarter, ...rest };
    return {
      block: "UniRepLKNetBlock",
      options,
      shape: [2, options.dim, 6, 7],
      build: () => {
        const block = withAnyNorms(new UniRepLKNetBlock(options), seed);
        // Zero at the start of a training, which would hide their part in the merge.
        const { gamma, beta } = block.act[1];
        for (const [name, p] of Object.entries({ gamma, beta })) p?.set(randomTensor(p.shape, `${seed}.${name}`));
        block.gamma?.set(randomTensor(block.gamma.shape, `${seed}.scale`));
        return block.eval();
      },
    };
  });
export const unireplkConfigs = sample(unireplk, 200);

const linearBn = fc.record({ channels: fc.tuple(size(7), size(7)), batch: size(3), seed: fc.nat(1000) }).map(
  ({ channels: [c, o], batch, seed }): Config => ({
    block: "LinearBn",
    options: { inFeatures: c, outFeatures: o },
    shape: [batch, c],
    build: () => withAnyNorms(new LinearBn(c, o), seed).eval(),
  }),
);

const segmentationHead = (Head: typeof SegmentationHead): fc.Arbitrary<Config> =>
  fc
    .record({ inChannels: size(5), midChannels: size(5), numClasses: size(4), seed: fc.nat(1000) })
    .map(({ seed, ...options }) => ({
      block: Head.name,
      options,
      shape: [2, options.inChannels, 4, 5],
      build: () => withAnyNorms(new Head(options), seed).eval(),
    }));

/** Of every block that merges, 200 or more, by its class. */
export const configsByBlock: Readonly<Record<string, readonly Config[]>> = {
  ACB: acbConfigs,
  LinearBn: sample(linearBn, 200),
  SegmentationHead: sample(segmentationHead(SegmentationHead), 200),
  AuxiliaryHead: sample(segmentationHead(AuxiliaryHead), 200),
  BranchedConv: branchedConfigs,
  NormedConv: sample(normed, 200),
  DBB: dbbConfigs,
  ConvBn: convBnConfigs.filter(({ block }) => block === "ConvBn"),
  ConvBnRelu: convBnConfigs.filter(({ block }) => block === "ConvBnRelu"),
  MobileOneBlock: mobileoneConfigs,
  RepCPE: repCPEConfigs,
  RepMixer: repMixerConfigs,
  ReparamLargeKernelConv: largeKernelConfigs,
  DilatedReparamBlock: dilatedReparamConfigs,
  UniRepLKNetBlock: unireplkConfigs,
  ECB: ecbConfigs,
  MBRConv: mbrConvConfigs,
  RepMLP: repmlpConfigs,
  RepMLPBlock: repmlpBlockConfigs,
  RepMLPConv: repmlpConvConfigs,
  RepVGGBlock: repvggConfigs,
  RepVGGConv: repvggUnits.map(({ conv }) => conv),
  RepVGGplusBlock: repvggUnits.map(({ plus }) => plus),
  QARepVGGBlock: qarepvggConfigs,
  QARepVGGBlockV1: repvggUnits.map(({ qaV1 }) => qaV1),
  RVSRRepConv: rvsrConfigs,
  ...mobileConfigs,
  IndexedConvBn: indexedConfigs,
  ...named(repvitConfigs, "RepVGGDW", "ResidualConv2dBn", "Conv2dBn", "DistilledClassifier", "BnLinear"),
};
