import { Compactor, ConvBn } from "../../src/blocks/index.ts";
import { relu, type Value } from "../../src/graph/index.ts";
import { Predictor } from "../../src/inference/index.ts";
import { BatchNorm2d, Conv2d, cloneWith, Linear, Module, type Net } from "../../src/nn/index.ts";
import {
  type Clusters,
  centripetal,
  centripetalGroup,
  chooseMasks,
  globalSparse,
  mergeCompactors,
  mergeInputs,
  resRep,
} from "../../src/prune/index.ts";
import type { Tensor, TensorSource } from "../../src/tensor/index.ts";
import { chain, sgd, type UpdateRule } from "../../src/training/index.ts";
import { withGradients } from "./given-gradients.ts";
import { absMax, type CaseCheck, type CaseResult, reader, runCase, withPrefix } from "./report.ts";

/** A case of the goldens' list `pruning`; which it is shows in its arguments. */
export interface PruningCase {
  readonly id: string;
  readonly family: string;
  readonly file: string;
  readonly args: Readonly<Record<string, never>>;
  readonly expected_masks_after_each_round?: readonly (readonly (readonly number[])[])[];
}

type Tensors = ReadonlyMap<string, TensorSource>;

/** Tolerance of the goldens: a share of a tensor's scale. */
const near = (check: CaseCheck, what: string, found: Tensor, golden: Tensor): void =>
  check.near(what, found, golden, 2e-6 * absMax(golden));

/** Layers that are only kept, for updates with given gradients. */
class Layers extends Module {
  constructor(readonly layers: Readonly<Record<string, Module>>) {
    super();
  }
  static override readonly stateNames = { layers: (name: string) => name };
  forward(x: Value): Value {
    return x;
  }
}

/** One step of a rule without momentum to speak of: what it made of the gradients is the first step's buffer. */
async function gradientsAfter(
  net: Net,
  rule: UpdateRule,
  gradients: Readonly<Record<string, Tensor>>,
  options: Parameters<typeof withGradients>[3] = {},
): Promise<(key: string) => Tensor> {
  const [{ state }] = await withGradients(net, chain(rule, sgd({ momentum: 0.9 })), [gradients], options);
  return (key) => state.get(`optimizer.momentum:${key}`)!;
}

class CompactedPair extends Module {
  readonly conv1: ConvBn;
  readonly conv2: ConvBn;
  constructor(get: (key: string) => Tensor, padding: number) {
    super();
    const conv = (name: string): ConvBn => {
      const [o, c, kernelSize] = get(`train.${name}.conv.weight`).shape;
      return new ConvBn(c, o, { kernelSize, padding });
    };
    this.conv1 = cloneWith(conv("conv1"), { compactor: new Compactor(get("train.conv1.conv.weight").shape[0]) });
    this.conv2 = conv("conv2");
  }
  forward(x: Value): Value {
    return this.conv2.forward(relu(this.conv1.forward(x)));
  }
}

async function checkMerge(check: CaseCheck, { args }: PruningCase, tensors: Tensors): Promise<void> {
  const get = reader(tensors);
  const net: Net = new CompactedPair(get, args.conv_padding);
  const train = withPrefix(tensors, "train.");
  train.delete("output");
  net.loadStateDict(train);
  net.eval();
  const input = get("input");
  const [batchSize, ...inputShape] = input.shape;
  const { net: pruned, removed } = mergeCompactors(net, input.shape, { threshold: args.threshold });
  check.equal("pruned_ids", removed.get("conv1"), Array.from(get("pruned_ids").data, Number));
  for (const [form, model] of [
    ["train", net],
    ["deploy", pruned],
  ] as const) {
    const predictor = await Predictor.create(model, { inputShape, batchSize });
    near(check, `${form}.output`, await predictor.run(input), get(`${form}.output`));
    await predictor.dispose();
  }
  const state = pruned.stateDict();
  const golden = withPrefix(tensors, "deploy.");
  golden.delete("output");
  check.equal("deploy keys", [...state.keys()].sort(), [...golden.keys()].sort());
  for (const [key, value] of golden) {
    check.equal(`shape of ${key}`, state.get(key)?.shape, value.shape);
    near(check, `deploy.${key}`, state.get(key)!.readSync(), value);
  }
}

async function checkGradient(check: CaseCheck, { args }: PruningCase, tensors: Tensors): Promise<void> {
  const get = reader(tensors);
  const key = "compactor.pwc.weight";
  const net: Net = new Layers({ compactor: new Compactor(get("weight").shape[0]) });
  net.loadStateDict(new Map([[key, get("weight")]]));
  const rule = resRep({ compactors: [key], lasso: args.lasso_strength });
  const state = { [`optimizer.mask:${key}`]: get("mask") };
  const after = await gradientsAfter(net, rule, { [key]: get("objective_grad") }, { state });
  near(check, "final_grad", after(key), get("final_grad"));
}

/** Convolutions one after the other on maps of one size; the last has no compactor. */
function checkMasks(check: CaseCheck, c: PruningCase, tensors: Tensors): void {
  const { deps, flops_target, begin_granularity, num_at_least } = c.args as unknown as {
    readonly deps: readonly number[];
    readonly flops_target: number;
    readonly begin_granularity: number;
    readonly num_at_least: number;
  };
  const weights = deps.slice(0, -1).map((_, i) => reader(tensors)(`compactor${i}.weight`));
  const costOf = (widths: readonly number[]): number => {
    const all = [3, ...widths, deps[deps.length - 1]];
    return all.slice(1).reduce((n, out, i) => n + all[i] * out * 9 * 64, 0);
  };
  const settings = { costOf, target: flops_target, granularity: begin_granularity, atLeast: num_at_least };
  let masks = deps.slice(0, -1).map((width) => new Array<number>(width).fill(1));
  for (const [round, golden] of c.expected_masks_after_each_round!.entries()) {
    masks = chooseMasks(weights, masks, settings);
    check.equal(`masks after round ${round + 1}`, masks, golden);
  }
}

async function checkCentripetal(check: CaseCheck, { args }: PruningCase, tensors: Tensors): Promise<void> {
  const get = reader(tensors);
  const clusters = args.clusters as Clusters;
  const [outputs, inputs, kernelSize] = get("conv.weight").shape;
  const net: Net = new Layers({
    conv: new Conv2d(inputs, outputs, { kernelSize, bias: false }),
    bn: new BatchNorm2d(outputs),
  });
  const keys = ["conv.weight", "bn.weight", "bn.bias"];
  net.loadStateDict(new Map<string, TensorSource>([...net.stateDict(), ...keys.map((k) => [k, get(k)] as const)]));
  const byKey = new Map(keys.map((key) => [key, clusters]));
  const rule = centripetal({
    clusters: byKey,
    weightDecay: args.weight_decay,
    weightDecayBias: args.weight_decay_bias,
    strength: args.centri_strength,
  });
  check.equal("strength of vectors, as a share", args.vector_strength_factor, 0.1);
  const gradients = Object.fromEntries(keys.map((key) => [key, get(`${key}.grad`)]));
  const after = await gradientsAfter(net, rule, gradients, { group: (key) => centripetalGroup(byKey)(key) ?? {} });
  for (const key of keys) near(check, `${key}.csgd_grad`, after(key), get(`${key}.csgd_grad`));
  const merged = mergeInputs(get("next.weight"), clusters);
  check.equal("shape of next.weight", merged.shape, get("next.weight.pruned").shape);
  near(check, "next.weight.pruned", merged, get("next.weight.pruned"));
}

async function checkSparse(check: CaseCheck, { args }: PruningCase, tensors: Tensors): Promise<void> {
  const get = reader(tensors);
  const { nonzero_ratio: share, lr, momentum, weight_decay: weightDecay } = args;
  const init = withPrefix(tensors, "init.");
  const layers: Record<string, Module> = {};
  for (const [key, { shape }] of init) {
    const [name, field] = [key.slice(0, key.lastIndexOf(".")), key.slice(key.lastIndexOf(".") + 1)];
    if (field !== "weight") continue;
    const bias = init.has(`${name}.bias`);
    const [o, i, kernelSize] = shape;
    layers[name] = shape.length === 2 ? new Linear(i, o, { bias }) : new Conv2d(i, o, { kernelSize, bias });
  }
  const net: Net = new Layers(layers);
  net.loadStateDict(init);
  const steps: Record<string, Tensor>[] = [];
  for (let s = 0; tensors.has(`step${s}.threshold`); s++)
    steps.push(Object.fromEntries(withPrefix(tensors, `step${s}.grad.`)));
  check.equal("numbers of axes that are masked", args.masked_dims, [2, 4]);
  const rule = chain(globalSparse({ share }), sgd({ momentum, weightDecay }));
  for (const [s, { outputs, state }] of (await withGradients(net, rule, steps, { lr })).entries()) {
    near(check, `step${s}.threshold`, outputs.gsmThreshold, get(`step${s}.threshold`));
    for (const [key, golden] of withPrefix(tensors, `step${s}.param.`))
      near(check, `step${s}.param.${key}`, state.get(key)!, golden);
  }
}

/** By a tensor that only one kind of case has. */
const kinds: readonly (readonly [tensor: string, body: typeof checkSparse])[] = [
  ["pruned_ids", checkMerge],
  ["objective_grad", checkGradient],
  ["compactor0.weight", async (check, c, tensors) => checkMasks(check, c, tensors)],
  ["next.weight", checkCentripetal],
  ["step0.threshold", checkSparse],
];

/** Repeats a recorded piece of a pruning method: gradients, masks, merges. */
export function checkPruning(c: PruningCase, tensors: Tensors): Promise<CaseResult> {
  return runCase(c.id, async (check) => {
    const kind = kinds.find(([tensor]) => tensors.has(tensor));
    if (kind) await kind[1](check, c, tensors);
    else check.fail(`no check is known for a case with ${[...tensors.keys()].join(", ")}`);
  });
}
