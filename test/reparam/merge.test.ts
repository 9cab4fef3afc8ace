import { describe, expect, test } from "vitest";
import { toDtype } from "../../src/nn/index.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import {
  acbConfigs,
  branchedConfigs,
  type Config,
  convBnConfigs,
  dbbConfigs,
  dilatedReparamConfigs,
  ecbConfigs,
  largeKernelConfigs,
  mbrConvConfigs,
  mobileoneConfigs,
  qarepvggConfigs,
  type RepMLPConfig,
  repCPEConfigs,
  repMixerConfigs,
  repmlpBlockConfigs,
  repmlpConfigs,
  repmlpConvConfigs,
  repvggConfigs,
  repvitConfigs,
  residualConfigs,
  rvsrConfigs,
  unireplkConfigs,
} from "./configurations.ts";
import { mobileConfigs } from "./mobile-configurations.ts";
import { relativeError, runTogether } from "./support.ts";

/** Rows of every block in both types, each short. */
const inBothTypes = (configs: readonly Config[]) =>
  [...new Set(configs.map(({ block }) => block))].flatMap((block) => {
    const own = configs.filter((c) => c.block === block);
    return [
      { name: `${own.length} of ${block} in float32`, configs: own, dtype: "float32", bound: 1e-5 },
      { name: `${own.length} of ${block} in float64`, configs: own, dtype: "float64", bound: 1e-10 },
    ] as const;
  });

type Float = "float32" | "float64";

/** Configurations whose merged form differs from the unmerged one by more than `bound`, the simplest first. */
async function failures(configs: readonly Config[], dtype: Float, bound: number): Promise<object[]> {
  const failed: object[] = [];
  // 40 networks run in one session: building a session takes far longer than running it.
  for (let start = 0; start < configs.length; start += 40) {
    const some = configs.slice(start, start + 40);
    const models = some.map(({ build, shape }) => ({ model: toDtype(build(), dtype), shape }));
    const merged = models.map(({ model, shape }) => ({ model: convertToDeploy(model), shape }));
    const [expected, actual] = [await runTogether(models, dtype), await runTogether(merged, dtype)];
    for (const [i, { block, options, shape }] of some.entries()) {
      const error = relativeError(actual[i], expected[i]);
      if (!(error <= bound)) failed.push({ block, options, shape, error });
    }
  }
  return failed.sort((a, b) => JSON.stringify(a).length - JSON.stringify(b).length);
}

describe("merged equals unmerged, in evaluation mode with random statistics", () => {
  test.for([
    { name: "240 RepMLPs in float32", configs: repmlpConfigs, dtype: "float32", bound: 1e-5 },
    { name: "40 RepMLPs in float64", configs: repmlpConfigs.slice(0, 40), dtype: "float64", bound: 1e-11 },
    {
      name: "RepMLPs with a convolution for FC3",
      configs: repmlpConvConfigs.slice(0, 60),
      dtype: "float32",
      bound: 1e-5,
    },
    { name: "60 QARepVGG blocks in float32", configs: qarepvggConfigs.slice(0, 60), dtype: "float32", bound: 1e-5 },
    { name: "200 RepMLPNet blocks in float32", configs: repmlpBlockConfigs, dtype: "float32", bound: 1e-5 },
    {
      name: "40 RepMLPNet blocks in float64",
      configs: repmlpBlockConfigs.slice(0, 40),
      dtype: "float64",
      bound: 1e-10,
    },
    { name: "200 convolutions with branches in float32", configs: branchedConfigs, dtype: "float32", bound: 1e-5 },
    { name: "200 ACBs in float32", configs: acbConfigs, dtype: "float32", bound: 1e-5 },
    { name: "40 ACBs in float64", configs: acbConfigs.slice(0, 40), dtype: "float64", bound: 1e-10 },
    { name: "240 DBBs in float32", configs: dbbConfigs, dtype: "float32", bound: 1e-5 },
    { name: "40 DBBs in float64", configs: dbbConfigs.slice(0, 40), dtype: "float64", bound: 1e-10 },
    { name: "residual blocks in float32", configs: residualConfigs, dtype: "float32", bound: 1e-5 },
    { name: "residual blocks in float64", configs: residualConfigs.slice(0, 20), dtype: "float64", bound: 1e-11 },
    {
      name: "convolutions with batch norm in float32",
      configs: convBnConfigs.slice(0, 60),
      dtype: "float32",
      bound: 1e-5,
    },
    {
      name: "convolutions with batch norm in float64",
      configs: convBnConfigs.slice(0, 60),
      dtype: "float64",
      bound: 1e-11,
    },
    { name: "200 RepVGG blocks in float32", configs: repvggConfigs, dtype: "float32", bound: 1e-5 },
    { name: "40 RepVGG blocks in float64", configs: repvggConfigs.slice(0, 40), dtype: "float64", bound: 1e-10 },
    { name: "200 RepMixers in float32", configs: repMixerConfigs, dtype: "float32", bound: 1e-5 },
    { name: "200 position encodings in float32", configs: repCPEConfigs, dtype: "float32", bound: 1e-5 },
    { name: "200 MobileOne blocks in float32", configs: mobileoneConfigs, dtype: "float32", bound: 1e-5 },
    { name: "40 MobileOne blocks in float64", configs: mobileoneConfigs.slice(0, 40), dtype: "float64", bound: 1e-10 },
    { name: "200 large kernels in float32", configs: largeKernelConfigs, dtype: "float32", bound: 1e-5 },
    { name: "200 dilated kernels in float32", configs: dilatedReparamConfigs, dtype: "float32", bound: 1e-5 },
    {
      name: "20 dilated kernels in float64",
      configs: dilatedReparamConfigs.slice(0, 20),
      dtype: "float64",
      bound: 1e-10,
    },
    { name: "200 UniRepLKNet blocks in float32", configs: unireplkConfigs, dtype: "float32", bound: 1e-5 },
    { name: "20 UniRepLKNet blocks in float64", configs: unireplkConfigs.slice(0, 20), dtype: "float64", bound: 1e-10 },
    { name: "20 large kernels in float64", configs: largeKernelConfigs.slice(0, 20), dtype: "float64", bound: 1e-10 },
    {
      name: "super-resolution blocks in float64",
      configs: [...rvsrConfigs.slice(0, 60), ...ecbConfigs.slice(0, 60)],
      dtype: "float64",
      bound: 1e-11,
    },
    {
      name: "multi-branch convolutions in float64",
      configs: mbrConvConfigs.slice(0, 80),
      dtype: "float64",
      bound: 1e-10,
    },
    {
      name: "some of them in float32",
      configs: [...rvsrConfigs.slice(0, 20), ...ecbConfigs.slice(0, 20), ...mbrConvConfigs.slice(0, 20)],
      dtype: "float32",
      bound: 1e-5,
    },
    ...inBothTypes(Object.values(mobileConfigs).flat()),
    ...inBothTypes(repvitConfigs),
  ] as const)("$name", async ({ configs, dtype, bound }) => {
    expect(await failures(configs, dtype, bound)).toEqual([]);
  });

  const kinds: [string, (o: RepMLPConfig["options"]) => boolean][] = [
    ["C and O differ", (o) => o.inChannels !== o.outChannels],
    ["one group per channel", (o) => o.groups > 1 && o.groups === o.inChannels && o.groups === o.outChannels],
    ["a map that is not square", (o) => o.height !== o.width],
    ["a partition that is not square", ({ partition: [h, w] }) => h !== w],
    ["partitions that do not divide the map", (o) => o.height % o.partition[0] > 0 || o.width % o.partition[1] > 0],
    ["a kernel larger than the partition", (o) => Math.max(...o.reparamConvKernels) > Math.max(...o.partition)],
    ["kernels not in order", ({ reparamConvKernels: k }) => k.some((size, i) => size < k[i - 1])],
    ["no Local Perceptron", (o) => o.reparamConvKernels.length === 0],
    ["no Global Perceptron", (o) => o.height === o.partition[0] && o.width === o.partition[1]],
    [
      "no Global Perceptron in spite of several partitions",
      (o) => !o.globalPerceptron && (o.height > o.partition[0] || o.width > o.partition[1]),
    ],
    ["a reduced Global Perceptron", (o) => o.fc1Fc2Reduction > 1 && o.height > o.partition[0]],
  ];
  test.for(kinds)("the configurations cover: %s", ([, isOne]) => {
    expect(repmlpConfigs.filter(({ options }) => isOne(options)).length).toBeGreaterThanOrEqual(10);
  });
});
