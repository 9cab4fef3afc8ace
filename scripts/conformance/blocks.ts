import {
  ACB,
  AttentionBlock,
  BaseBlock,
  BnLinear,
  BottleneckBlock,
  Conv2dBn,
  ConvBn,
  ConvBnRelu,
  ConvFFN,
  convolutionalStem,
  DBB,
  DilatedReparamBlock,
  DistilledClassifier,
  type GammaInit,
  LightBlock,
  MobileOneBlock,
  PatchEmbed,
  QARepVGGBlock,
  QARepVGGBlockV1,
  ReparamLargeKernelConv,
  RepCPE,
  RepLKBlock,
  RepMixer,
  RepMixerBlock,
  RepMLP,
  RepMLPBlock,
  RepMLPNetFFN,
  RepMLPNetUnit,
  RepVGGBlock,
  RepVGGDW,
  RepVGGplusBlock,
  RepViTBlock,
  UniRepLKNetBlock,
} from "../../src/blocks/index.ts";
import { must } from "../../src/errors.ts";
import { add, constant, grad, input, type Pair, reshape, type Value } from "../../src/graph/index.ts";
import {
  createModel,
  FastViT,
  MobileNet,
  MobileOne,
  RepLKNet,
  RepMLPNet,
  RepMLPResNet,
  type RepMLPResNetBlock,
  RepVGG,
  RepViT,
  ResNet,
  UniRepLKNet,
} from "../../src/models/index.ts";
import { hasTrainingOutputs, type Net, type Outputs, parameterNames, traceNet } from "../../src/nn/index.ts";
import { convertToDeploy, equivalentInGraph } from "../../src/reparam/index.ts";
import { compile, compileStep } from "../../src/runtime/index.ts";
import { sizeOf, type Tensor, type TensorSource } from "../../src/tensor/index.ts";
import { mobileBuilders } from "./mobile-blocks.ts";
import { checkSegmentationLoss, PSPNetHead } from "./pspnet.ts";
import { absMax, type CaseCheck, type CaseResult, maxDifference, reader, runCase, withPrefix } from "./report.ts";

/** A case of the goldens' `cases.json`. */
export interface BlockCase {
  readonly id: string;
  readonly family: string;
  readonly file: string;
  readonly args: Readonly<Record<string, unknown>>;
  readonly suggested_abs_tol: number;
  readonly has_trainmode?: boolean;
  /** Whether the original puts partitions in wrong places; `fixed.output` is then that with each in its own. */
  readonly original_scrambles_partitions?: boolean;
  /** Absolute tolerances of tensors that are rounding by theory: `grad.<key>`, `after.<buffer>`. */
  readonly trainmode_abs_tol?: Readonly<Record<string, number>>;
}

type Args = Readonly<Record<string, never>>;

const perceptronOptions = (a: Args) => ({
  partition: [a.h, a.w] as const,
  reparamConvKernels: (a.reparam_conv_k ?? []) as readonly number[],
  groups: a.fc3_groups,
  fc1Fc2Reduction: a.fc1_fc2_reduction,
});
const repmlpOptions = (a: Args) => ({ height: a.H, width: a.W, ...perceptronOptions(a) });
const convOptions = (a: Args) => ({
  ...{ inChannels: a.in_channels, outChannels: a.out_channels, kernelSize: a.kernel_size, padding: a.padding ?? 0 },
  ...{ stride: a.stride ?? 1, dilation: a.dilation ?? 1, groups: a.groups ?? 1 },
});
/** The original's ways to say with what the weights of batch norms begin. */
const gammaOptions = (a: Args): { readonly gammaInit?: GammaInit } => {
  const [reduce, value, single] = [a.reduce_gamma ?? false, a.gamma_init ?? undefined, a.single_init ?? false];
  if (single) return { gammaInit: "single" };
  return reduce ? { gammaInit: 1 / 3 } : { ...(value !== undefined && { gammaInit: value }) };
};
const residual = (a: Args) => ({ inChannels: a.in_channels, midChannels: a.mid_channels, outChannels: a.out_channels });

const mobileOneOptions = (a: Args) => ({
  ...{ inChannels: a.in_channels, outChannels: a.out_channels, kernelSize: a.kernel_size, stride: a.stride },
  ...{ padding: a.padding, dilation: a.dilation, groups: a.groups },
  ...{ useSe: a.use_se, numConvBranches: a.num_conv_branches, useScaleBranch: a.use_scale_branch },
});
const replkBlocks: Readonly<Record<string, (a: Args) => Net>> = {
  ReparamLargeKernelConv: (a) =>
    new ReparamLargeKernelConv({
      ...{ inChannels: a.in_channels, outChannels: a.out_channels, kernelSize: a.kernel_size },
      ...{ stride: a.stride ?? 1, groups: a.groups ?? 1, smallKernel: a.small_kernel ?? undefined },
    }),
  RepLKBlock: (a) =>
    new RepLKBlock({
      ...{ inChannels: a.in_channels, dwChannels: a.dw_channels, kernelSize: a.block_lk_size },
      ...{ smallKernel: a.small_kernel ?? undefined, dropPath: a.drop_path ?? 0, deepFuseBn: a.deep_fuse_BN ?? false },
    }),
  ConvFFN: (a) =>
    new ConvFFN({
      ...{ inChannels: a.in_channels, internalChannels: a.internal_channels, outChannels: a.out_channels },
      ...{ dropPath: a.drop_path ?? 0, deepFuseBn: a.deep_fuse_BN ?? false },
    }),
};

const unireplkBlocks: Readonly<Record<string, (a: Args) => Net>> = {
  DilatedReparamBlock: (a) =>
    new DilatedReparamBlock({ ...noted(a.deploy), channels: a.channels, kernelSize: a.kernel_size }),
  UniRepLKNetBlock: (a) =>
    new UniRepLKNetBlock({
      ...{ dim: a.dim, kernelSize: a.kernel_size, ffnFactor: a.ffn_factor ?? 4 },
      ...{ layerScaleInitValue: a.layer_scale_init_value ?? 0, dropPath: a.drop_path ?? 0 },
    }),
};

const fastvitBlocks: Readonly<Record<string, (a: Args) => Net>> = {
  RepMixer: (a) => new RepMixer({ channels: a.dim, kernelSize: a.kernel_size, useLayerScale: a.use_layer_scale }),
  ReparamLargeKernelConv: replkBlocks.ReparamLargeKernelConv,
  RepCPE: (a) =>
    new RepCPE({ channels: equalSizes(a.in_channels, a.embed_dim ?? a.in_channels), kernelSize: a.spatial_shape }),
  convolutional_stem: (a) => convolutionalStem(a.in_channels, a.out_channels),
  PatchEmbed: (a) =>
    new PatchEmbed({
      ...{ inChannels: a.in_channels, outChannels: a.embed_dim, patchSize: a.patch_size, stride: a.stride },
    }),
  RepMixerBlock: (a) =>
    new RepMixerBlock({
      ...{ channels: a.dim, kernelSize: a.kernel_size, mlpRatio: a.mlp_ratio },
      ...{ useLayerScale: a.use_layer_scale, dropPath: a.drop_path },
    }),
  AttentionBlock: (a) =>
    new AttentionBlock({
      ...{ channels: a.dim, mlpRatio: a.mlp_ratio, useLayerScale: a.use_layer_scale, dropPath: a.drop_path },
    }),
  MobileOneBlock: (a) =>
    new MobileOneBlock({ ...mobileOneOptions(a), activation: a.use_act === false ? "none" : "gelu" }),
};

/** One size of two that must be the same. */
function equalSizes(a: number, b: number): number {
  if (a !== b) throw new Error(`sizes ${a} and ${b} differ`);
  return a;
}
/** Takes note of arguments that change nothing here: the class of a family with one, how batch norms are synchronised. */
const noted = (..._: readonly unknown[]): object => ({});
type Build = (args: Args) => Net;

/** Where a family has one class in its cases. */
const mustBeClass = (a: Args, name: string): void =>
  must(a.class === name, "conformance/class", () => `the class ${a.class} is not known here`);

/** RepViT's classes by the authors' names. */
const repvitBlocks: Readonly<Record<string, Build>> = {
  RepVGGDW: (a) => new RepVGGDW(a.ed),
  Conv2d_BN: (a) =>
    new Conv2dBn(a.a, a.b, {
      ...{ kernelSize: a.ks ?? 1, stride: a.stride ?? 1, padding: a.pad ?? 0, dilation: a.dilation ?? 1 },
      groups: a.groups ?? 1,
    }),
  BN_Linear: (a) => new BnLinear(a.a, a.b),
  Classfier: (a) =>
    new DistilledClassifier({ inFeatures: a.dim, numClasses: a.num_classes, distillation: a.distillation ?? true }),
  RepViTBlock: (a) => {
    const { inp, hidden_dim: hidden } = a;
    must(hidden === 2 * inp, "conformance/args", () => `RepViTBlock: hidden_dim ${hidden} is not twice inp ${inp}`);
    // GELU with and without use_hs.
    void a.use_hs;
    return new RepViTBlock({
      ...{ inChannels: inp, outChannels: a.oup, kernelSize: a.kernel_size, stride: a.stride, useSe: !!a.use_se },
    });
  },
};

const repmlpBlockOptions = (a: Args, { scrambles }: Wanted) => ({
  ...{ partition: [a.h, a.w] as const, reparamConvKernels: (a.reparam_conv_k ?? []) as readonly number[] },
  ...{ globalReduction: a.globalperceptron_reduce, shareSets: a.num_sharesets, scramblePartitions: scrambles },
});

/** What a case wants beside its arguments. */
interface Wanted {
  readonly id: string;
  /** Partitions where the original puts them, or each in its own place. */
  readonly scrambles: boolean;
}

/** Constructors from the original's arguments, by family. */
export const builders: Readonly<Record<string, (args: Args, wanted: Wanted) => Net>> = {
  repmlp: (a) => new RepMLP({ inChannels: a.in_channels, outChannels: a.out_channels, ...repmlpOptions(a) }),
  light: (a) => new LightBlock({ ...residual(a), ...repmlpOptions(a) }),
  bottleneck: (a) => new BottleneckBlock({ ...residual(a), ...repmlpOptions(a), reduction: a.r }),
  baseblock: (a) => new BaseBlock({ ...residual(a), stride: a.stride }),
  convbn: (a, { id }) => {
    const Unit = id.startsWith("convbnrelu") ? ConvBnRelu : ConvBn;
    return new Unit(a.in_channels, a.out_channels, {
      kernelSize: a.kernel_size,
      stride: a.stride ?? 1,
      padding: a.padding ?? 0,
      groups: a.groups ?? 1,
    });
  },
  acb: (a) =>
    new ACB({
      ...convOptions(a),
      ...(a.use_affine !== undefined && { useAffine: a.use_affine }),
      ...gammaOptions(a),
    }),
  dbb: (a) =>
    new DBB({
      ...convOptions(a),
      internalChannels: a.internal_channels_1x1_3x3 ?? undefined,
      ...gammaOptions(a),
    }),
  repvgg: (a) => new RepVGGBlock({ ...convOptions(a), useSe: a.use_se ?? false }),
  repvggplus_block: (a) => new RepVGGplusBlock({ ...convOptions(a), usePostSe: a.use_post_se ?? false }),
  qarepvgg_block: (a) => {
    const Block = { QARepVGGBlockV1, QARepVGGBlockV2: QARepVGGBlock }[a.class as string];
    if (!Block) throw new Error(`there is no block ${a.class}`);
    return new Block({ ...convOptions(a), useSe: a.use_se ?? false });
  },
  pspnet_head: (a) => new PSPNetHead(a),
  repvgg_net: (a) =>
    new RepVGG({
      numBlocks: a.num_blocks,
      widthMultiplier: a.width_multiplier,
      groupsByLayer: a.override_groups_map,
      numClasses: a.num_classes,
      useSe: a.use_se,
    }),
  mobileone_block: (a) =>
    new MobileOneBlock({ ...mobileOneOptions(a), activation: a.use_act === false ? "none" : "relu" }),
  replknet_block: (a) => replkBlocks[a.class as string](a),
  replknet_net: (a) =>
    new RepLKNet({
      ...noted(a.class, a.use_sync_bn),
      ...{ largeKernelSizes: a.large_kernel_sizes, layers: a.layers, channels: a.channels },
      smallKernels: a.small_kernel === null ? [] : [a.small_kernel],
      ...{ dropPathRate: a.drop_path_rate, dwRatio: a.dw_ratio ?? 1, ffnRatio: a.ffn_ratio ?? 4 },
      ...{ numClasses: a.num_classes, deepFuseBn: a.deep_fuse_BN ?? false },
    }),
  ...mobileBuilders,
  repvit: (a) => repvitBlocks[a.class as string](a),
  repvit_net: (a) => {
    mustBeClass(a, "RepViT");
    return new RepViT({
      layers: (a.cfgs as readonly (readonly number[])[]).map(([kernelSize, , outChannels, useSe, , stride]) => ({
        ...{ kernelSize, outChannels, useSe: useSe === 1, stride: stride as 1 | 2 },
      })),
      numClasses: a.num_classes,
      distillation: a.distillation,
    });
  },
  mobileone_net: (a) =>
    new MobileOne({
      numBlocks: a.num_blocks_per_stage,
      widthMultiplier: a.width_multipliers,
      numClasses: a.num_classes,
      useSe: a.use_se,
      numConvBranches: a.num_conv_branches,
    }),
  unireplknet_block: (a) => unireplkBlocks[a.class as string](a),
  unireplknet_net: (a) =>
    new UniRepLKNet({
      ...noted(a.class),
      ...{ depths: a.depths, dims: a.dims, kernelSizes: a.kernel_sizes, numClasses: a.num_classes },
      ...{ layerScaleInitValue: a.layer_scale_init_value ?? 0, dropPathRate: a.drop_path_rate ?? 0 },
    }),
  fastvit: (a) => fastvitBlocks[a.class as string](a),
  fastvit_net: (a) =>
    new FastViT({
      ...noted(a.class),
      ...{ layers: a.layers, tokenMixers: a.token_mixers, embedDims: a.embed_dims, mlpRatios: a.mlp_ratios },
      positionKernels: (a.pos_embs as readonly (Pair | null)[] | undefined)?.map((k) => (k ? equalSizes(...k) : 0)),
      downsamples: a.downsamples,
      ...{ dropPathRate: a.drop_path_rate, numClasses: a.num_classes },
    }),
  repmlp_resnet: (a) =>
    new RepMLPResNet({
      blockType: a.block_type as RepMLPResNetBlock,
      stemChannels: a.stem_channels,
      channels: a.channels,
      numBlocks: a.num_blocks,
      numClasses: a.num_classes,
      imageSize: [a.img_H, a.img_W],
      bottleneckReduction: a.bottleneck_r,
      ...perceptronOptions(a),
    }),
  repmlpnet_block: (a, wanted) => {
    if (a.out_channels !== a.in_channels) throw new Error("the block has as many outputs as inputs");
    return new RepMLPBlock({ channels: a.in_channels, ...repmlpBlockOptions(a, wanted) });
  },
  repmlpnet_ffn: (a) => new RepMLPNetFFN({ inChannels: a.in_channels, hiddenChannels: a.hidden_channels }),
  repmlpnet_unit: (a, wanted) =>
    new RepMLPNetUnit({ channels: a.channels, ffnExpand: a.ffn_expand, ...repmlpBlockOptions(a, wanted) }),
  repmlpnet: (a, { scrambles }) => {
    const widths = a.ws as readonly number[];
    return new RepMLPNet({
      ...{ inChannels: a.in_channels, numClasses: a.num_class, patchSize: a.patch_size, numBlocks: a.num_blocks },
      ...{ channels: a.channels, partitions: (a.hs as readonly number[]).map((h, i) => [h, widths[i]] as const) },
      ...{ shareSets: a.sharesets_nums, reparamConvKernels: a.reparam_conv_k ?? [] },
      ...{ globalReduction: a.globalperceptron_reduce, scramblePartitions: scrambles },
    });
  },
  unit_resnet: (a) =>
    new ResNet({
      ...{ unit: a.unit, block: a.block, numBlocks: a.num_blocks },
      ...{ widthMultiplier: a.width_multiplier, numClasses: a.num_classes },
    }),
  unit_mobilenet: (a) =>
    new MobileNet({ unit: a.unit, widthMultiplier: a.width_multiplier, numClasses: a.num_classes }),
  acnet_cifar: (a) =>
    createModel("Cifar-quick-base", {
      ...{ network: a.network, unit: a.unit, numBlocks: a.num_blocks },
      ...{ widthMultiplier: a.width_multiplier, numClasses: a.num_classes },
    }),
};

/** Values that some cases hold beside outputs and weights: how a model gives them, by the name of their tensor. */
const extras: Readonly<Record<string, (model: Net) => Value>> = {
  custom_L2: (model) => (model as RepVGGBlock | QARepVGGBlock).customL2(),
};

/** What else the cases of a family hold. */
const furtherChecks: Readonly<
  Record<
    string,
    (check: CaseCheck, model: Net, tensors: ReadonlyMap<string, TensorSource>, c: BlockCase) => Promise<void>
  >
> = {
  pspnet_head: (check, model, tensors, c) => checkSegmentationLoss(check, model as PSPNetHead, tensors, c),
};

type Values = Readonly<Record<string, Value>>;
type Tensors = Readonly<Record<string, Tensor>>;

/** A model of several inputs, which are called `input`, `input2`, … */
interface Several {
  outputsOf(inputs: Values): Outputs;
}
const takesSeveral = (model: Net): model is Net & Several => "outputsOf" in model;

/** All outputs of a model in the mode that it is in. */
function outputsOf(model: Net, inputs: Values): Outputs {
  if (takesSeveral(model)) return model.outputsOf(inputs);
  const several = model.training && hasTrainingOutputs(model);
  return several ? model.trainingOutputs(inputs.input) : { output: model.forward(inputs.input) };
}

const inputsOf = (tensors: ReadonlyMap<string, TensorSource>): Tensors =>
  Object.fromEntries([...tensors].filter(([key]) => /^input\d*$/.test(key)).map(([key, t]) => [key, t.readSync()]));

const asValues = (inputs: Tensors): Values =>
  Object.fromEntries(Object.entries(inputs).map(([key, { shape }]) => [key, input(key, shape)]));

/**
 * Checks one block case: both forms' outputs, merged weights, train-mode output, statistics and gradients.
 *
 * @param exact  the original's training-mode pass in float64, where there is one: `output`, `after.<buffer>`, `grad.<key>`
 */
export function checkBlock(
  c: BlockCase,
  tensors: ReadonlyMap<string, TensorSource>,
  exact?: ReadonlyMap<string, TensorSource>,
): Promise<CaseResult> {
  const build = builders[c.family];
  if (!build) return Promise.resolve({ id: c.id, status: "skipped", detail: `family ${c.family} is not implemented` });
  return runCase(c.id, async (check) => {
    const scrambles = c.original_scrambles_partitions ?? false;
    const made = (wanted: Wanted): Net => check.allRead("args", c.args as Args, (args) => build(args, wanted));
    const model = made({ id: c.id, scrambles });
    const get = reader(tensors);
    const state = withPrefix(tensors, "train.");
    for (const key of [...state.keys()].filter(isOutput)) state.delete(key);
    model.loadStateDict(state);
    const inputs = inputsOf(tensors);
    model.eval();
    const checkOutputs = async (net: Net, form: string): Promise<void> => {
      for (const [name, own] of Object.entries(await run(net, inputs))) {
        const what = `${form}.${suffixed("output", name)}`;
        check.near(what, own, get(what), c.suggested_abs_tol);
      }
    };
    await checkOutputs(model, "train");
    for (const [name, extra] of Object.entries(extras))
      if (tensors.has(name)) {
        const golden = get(name);
        check.near(name, await compute(extra(model)), golden, 3e-6 * absMax(golden));
      }
    const deploy = convertToDeploy(model);
    checkWeights(check, deploy, withPrefix(tensors, "deploy."));
    await checkInGraph(check, model, withPrefix(tensors, "deploy."));
    await checkOutputs(deploy, "deploy");
    if (scrambles) {
      const fixed = made({ id: c.id, scrambles: false });
      fixed.loadStateDict(state);
      for (const net of [fixed.eval(), convertToDeploy(fixed)]) await checkOutputs(net, "fixed");
    }
    check.equal("second conversion", [...convertToDeploy(deploy).stateDict().keys()], [...deploy.stateDict().keys()]);
    if (c.has_trainmode) await checkTrainMode(check, model.train(), tensors, c, exact);
    await furtherChecks[c.family]?.(check, model, tensors, c);
  });
}

async function run(model: Net, inputs: Tensors): Promise<Tensors> {
  const { result, names } = traceNet(model, () => outputsOf(model, asValues(inputs)), Object.values);
  await using program = await compile({ outputs: { ...result } }, { names });
  return await program.run(inputs);
}

async function compute(value: Value): Promise<Tensor> {
  await using program = await compile({ outputs: { value } });
  return (await program.run({})).value;
}

/** The merge in the graph, in float32 as training has it, beside the original's merged weights. */
async function checkInGraph(check: CaseCheck, model: Net, expected: ReadonlyMap<string, Tensor>): Promise<void> {
  const outputs = Object.fromEntries(equivalentInGraph(model));
  if (!Object.keys(outputs).length) return;
  await using program = await compile({ outputs });
  for (const [key, value] of Object.entries(await program.run({}))) {
    const golden = expected.get(key)!;
    check.near(`${key} in the graph`, value, golden, 3e-6 * Math.max(1, absMax(golden)));
  }
}

function checkWeights(check: CaseCheck, deploy: Net, expected: ReadonlyMap<string, Tensor>): void {
  const own = deploy.stateDict();
  const wanted = [...expected.keys()].filter((k) => !isOutput(k));
  check.equal("deploy keys", [...own.keys()].sort(), wanted.sort());
  for (const key of wanted) {
    const [actual, golden] = [own.get(key)!.readSync(), expected.get(key)!];
    check.equal(`shape of deploy.${key}`, actual.shape, golden.shape);
    check.near(`deploy.${key}`, actual, golden, 3e-6 * Math.max(1, absMax(golden)));
  }
}

interface TrainModeRun {
  /** Output, gradients (`grad.<key>`) and new statistics (`after.<key>`). */
  readonly values: ReadonlyMap<string, Tensor>;
  /** Increase of each counter. */
  readonly counted: ReadonlyMap<string, number>;
}

/** Of a further output `dist`: `output_dist`, `cotangent_dist`. */
const suffixed = (what: string, name: string): string => (name === "output" ? what : `${what}_${name}`);
const isOutput = (key: string): boolean => /^output(_|$)/.test(key);

/** Runs a model once with batch statistics, with the gradients of sum(output · cotangent) over all outputs. */
async function runTrainMode(
  model: Net,
  inputs: Tensors,
  cotangents: Readonly<Record<string, Tensor>>,
  wanted: readonly string[],
): Promise<TrainModeRun> {
  const values = asValues(inputs);
  const traced = traceNet(model, () => outputsOf(model, values), Object.values);
  const parameters = new Map([...model.parameters()].map(([key, p]) => [key, p.value]));
  const wrt = wanted.map((key) => values[key] ?? parameters.get(key)!);
  const gradients = Object.entries(cotangents).map(([name, c]) => grad(traced.result[name], wrt, constant(c)));
  const program = await compileStep({
    outputs: {
      ...Object.fromEntries(Object.entries(traced.result).map(([name, v]) => [suffixed("output", name), v])),
      ...Object.fromEntries(
        (gradients.length ? wanted : []).map((key, i) => [
          `grad.${key}`,
          gradients.map((g) => g[i]).reduce((a, b) => add(a, b)),
        ]),
      ),
    },
    next: new Map([...traced.updates].map(([ref, v]) => [ref, reshape(v, [sizeOf(ref.shape)])])),
    names: traced.names,
  });
  const results = new Map(Object.entries(await program.step(inputs)));
  const updated = [...traced.updates.keys()].map((ref) => traced.names.get(ref)!);
  for (const [key, value] of await program.readState(updated)) results.set(`after.${key}`, value);
  await program.dispose();
  const names = parameterNames(model);
  const counted = new Map<string, number>();
  for (const ref of traced.counters) {
    const key = names.get(ref as never)!;
    counted.set(key, (counted.get(key) ?? 0) + 1);
  }
  return { values: results, counted };
}

/**
 * Compares a training-mode pass with the goldens. Where batch statistics of few samples amplify rounding, the float32
 * goldens are themselves further from the exact result than the stated tolerance. So where the original was also run in
 * float64, its exact values are what each tensor is judged by: it may be off by the stated tolerance or by four times the
 * golden's own distance, whichever is larger.
 */
async function checkTrainMode(
  check: CaseCheck,
  model: Net,
  tensors: ReadonlyMap<string, TensorSource>,
  c: BlockCase,
  exact: ReadonlyMap<string, TensorSource> | undefined,
): Promise<void> {
  const get = reader(tensors);
  const gradients = withPrefix(tensors, "grad.");
  const outputs = ["output", ...[...withPrefix(tensors, "trainmode.output_").keys()]];
  const cotangents = Object.fromEntries(
    outputs.flatMap((name) => {
      const golden = tensors.get(suffixed("cotangent", name));
      return golden ? [[name, golden.readSync()] as const] : [];
    }),
  );
  const wanted = Object.keys(cotangents).length ? [...gradients.keys()] : [];
  const own = await runTrainMode(model, inputsOf(tensors), cotangents, wanted);
  const compare = (what: string, golden: Tensor, stated: number): void => {
    const actual = own.values.get(what)!;
    const reference = exact?.get(what)?.readSync();
    if (reference) check.near(what, actual, reference, Math.max(stated, 4 * maxDifference(golden, reference)));
    else check.near(what, actual, golden, stated);
  };
  for (const name of outputs) {
    const what = suffixed("output", name);
    compare(what, get(`trainmode.${what}`), c.suggested_abs_tol);
  }
  for (const key of wanted) {
    const golden = gradients.get(key)!;
    compare(`grad.${key}`, golden, c.trainmode_abs_tol?.[`grad.${key}`] ?? 1e-5 * absMax(golden) + 1e-6);
  }
  const before = model.stateDict();
  for (const [key, golden] of withPrefix(tensors, "trainmode.after.")) {
    if (key.endsWith("num_batches_tracked"))
      check.equal(
        key,
        Number(before.get(key)!.readSync().data[0]) + (own.counted.get(key) ?? 0),
        Number(golden.data[0]),
      );
    else compare(`after.${key}`, golden, c.trainmode_abs_tol?.[`after.${key}`] ?? 3e-6 * Math.max(1, absMax(golden)));
  }
}
