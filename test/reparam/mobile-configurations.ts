import fc from "fast-check";
import {
  LearnableRepLayer,
  RepGhostModule,
  RepOptSearchBlock,
  SeriesActivation,
  VanillaBlock,
  YoloQARepVGGBlock,
  YoloRepConv,
  YoloRepVGGDW,
  YoloV7RepConv,
} from "../../src/blocks/index.ts";
import type { Module, Net } from "../../src/nn/index.ts";
import type { Config } from "./configurations.ts";
import { randomTensor, withAnyNorms } from "./support.ts";

const size = (max: number): fc.Arbitrary<number> => fc.integer({ min: 1, max });
const channels = size(8);
const odd = fc.constantFrom(1, 3, 3, 5);

/** Configurations of a block from random options; `inChannels` or `channels` are those of its input. */
const configs = <O extends { readonly inChannels: number } | { readonly channels: number }>(
  options: fc.Arbitrary<O>,
  Block: new (options: O) => Net,
): Config[] =>
  fc.sample(fc.tuple(options, fc.nat(1000)), { numRuns: 200, seed: 20230512 }).map(([o, seed]) => ({
    block: Block.name,
    options: o,
    shape: [2, "channels" in o ? o.channels : o.inChannels, 6, 7],
    build: () => withAnyAffine(withAnyNorms(new Block(o), seed), seed).eval(),
  }));

/** Scales and biases that start as numbers for all channels would hide their part. */
function withAnyAffine<M extends Module>(block: M, seed: number): M {
  for (const [key, p] of block.state())
    if (/(^|\.)(lab|scale_\w+)\./.test(key)) p.set(randomTensor(p.shape, `${seed}.${key}`));
  return block;
}

const repghost = fc.record({
  ...{ inChannels: channels, outChannels: channels, kernelSize: odd, stride: size(2), dwSize: odd },
  ...{ useRelu: fc.boolean(), reparamBn: fc.boolean(), reparamIdentity: fc.boolean() },
});

const vanilla = fc.record({
  ...{ inChannels: channels, outChannels: channels, actNum: size(3), stride: size(2) },
  adaptivePool: fc.constantFrom(0, 2, 5),
});

/** As many input as output channels in about half of the cases. */
const grouped = fc
  .record({
    ...{ perGroup: fc.tuple(size(3), size(3)), groups: size(3), same: fc.boolean() },
    ...{ kernelSize: odd, stride: fc.constantFrom(1, 1, 2) },
  })
  .map(({ perGroup: [c, o], groups, same, ...rest }) => ({
    ...{ inChannels: c * groups, outChannels: (same ? c : o) * groups, groups },
    ...rest,
  }));
const activation = fc.constantFrom("silu" as const, "relu" as const, "none" as const);

/** Blocks of small networks and of detectors, 200 of each, by their class. */
export const mobileConfigs: Readonly<Record<string, readonly Config[]>> = {
  LearnableRepLayer: configs(
    fc
      .tuple(grouped, size(3), fc.boolean(), fc.constantFrom("hardSwish" as const, "relu" as const))
      .map(([o, numConvBranches, foldAffine, act]) => ({ ...o, numConvBranches, foldAffine, activation: act })),
    LearnableRepLayer,
  ),
  RepGhostModule: configs(repghost, RepGhostModule),
  RepOptSearchBlock: configs(
    fc.tuple(grouped, fc.double({ min: 0.3, max: 2, noNaN: true })).map(([o, scale]) => ({ ...o, scale })),
    RepOptSearchBlock,
  ),
  SeriesActivation: configs(fc.record({ channels, actNum: size(3) }), SeriesActivation),
  VanillaBlock: configs(vanilla, VanillaBlock),
  YoloQARepVGGBlock: configs(
    fc.tuple(grouped, fc.boolean()).map(([o, average]) => ({ ...o, average })),
    YoloQARepVGGBlock,
  ),
  YoloRepConv: configs(
    fc.tuple(grouped, fc.boolean(), activation).map(([o, identity, act]) => ({ ...o, identity, activation: act })),
    YoloRepConv,
  ),
  YoloRepVGGDW: configs(fc.record({ channels }), YoloRepVGGDW),
  YoloV7RepConv: configs(
    fc.tuple(grouped, activation).map(([o, act]) => ({ ...o, activation: act })),
    YoloV7RepConv,
  ),
};
