import { repOptInitialize, repOptMultipliers, repOptScales } from "../../src/blocks/index.ts";
import { globalAvgPool, relu, type Value } from "../../src/graph/index.ts";
import { BatchNorm2d, Conv2d, Linear, Module, type Net } from "../../src/nn/index.ts";
import { oneHotTargets } from "../../src/tasks/index.ts";
import { sizeOf, Tensor, type TensorSource } from "../../src/tensor/index.ts";
import { Learner, noDecayOnNormAndBias, type Optimizer, repAdamW, repSgd } from "../../src/training/index.ts";
import { absMax, type CaseResult, reader, runCase, withPrefix } from "./report.ts";

/** A case of the goldens' list `repoptimizer`. */
export interface RepOptimizerCase {
  readonly id: string;
  readonly file: string;
  readonly arch_args: { readonly strides: readonly number[] };
  readonly batch_size: number;
  readonly num_images: number;
  readonly steps: number;
  readonly snapshots: readonly number[];
  readonly optimizer: { readonly type: "sgd" | "adamw"; readonly lr: number } & Readonly<Record<string, never>>;
  readonly blocks: readonly { readonly name: string }[];
  readonly use_identity_scales_for_reinit: boolean;
  readonly mult_power: 1 | 2;
}

/** `scales.<block>.conv` as a search network's state dict calls it. */
const named = (scales: ReadonlyMap<string, Tensor>): ReadonlyMap<string, Tensor> =>
  new Map([...scales].map(([key, t]) => [key.replace(/\.(\w+)$/, ".scale_$1.weight"), t]));

class PlainBlock extends Module {
  readonly conv: Conv2d;
  readonly bn: BatchNorm2d;
  constructor(inChannels: number, outChannels: number, stride: number) {
    super();
    this.conv = new Conv2d(inChannels, outChannels, { kernelSize: 3, stride, padding: 1, bias: false });
    this.bn = new BatchNorm2d(outChannels);
  }
  forward(x: Value): Value {
    return relu(this.bn.forward(this.conv.forward(x)));
  }
}

/** Plain blocks `stage0`, `stage1.0`, `stage1.1`, …, average pool, `linear`; widths as the weights have them. */
class PlainNet extends Module {
  readonly stage0: PlainBlock;
  readonly stage1: PlainBlock[];
  readonly stage2: PlainBlock[];
  readonly stage3: PlainBlock[];
  readonly stage4: PlainBlock[];
  readonly linear: Linear;

  constructor({ blocks, arch_args }: RepOptimizerCase, weights: ReadonlyMap<string, Tensor>) {
    super();
    const stage = (n: number): PlainBlock[] =>
      blocks
        .filter(({ name }) => name.split(".")[0] === `stage${n}`)
        .map(({ name }, i) => {
          const [outChannels, inChannels] = weights.get(`${name}.conv.weight`)!.shape;
          return new PlainBlock(inChannels, outChannels, i ? 1 : arch_args.strides[n]);
        });
    [this.stage0] = stage(0);
    this.stage1 = stage(1);
    this.stage2 = stage(2);
    this.stage3 = stage(3);
    this.stage4 = stage(4);
    const [classes, features] = weights.get("linear.weight")!.shape;
    this.linear = new Linear(features, classes);
  }

  forward(x: Value): Value {
    const rest = [this.stage1, this.stage2, this.stage3, this.stage4].flat();
    const features = rest.reduce((y, block) => block.forward(y), this.stage0.forward(x));
    return this.linear.forward(globalAvgPool(features));
  }
}

function optimizerOf({ optimizer: o }: RepOptimizerCase, multipliers: ReadonlyMap<string, Tensor>): Optimizer {
  const weightDecay = o.weight_decay;
  return o.type === "adamw"
    ? repAdamW(multipliers, { betas: o.betas, eps: o.eps, weightDecay })
    : repSgd(multipliers, { momentum: o.momentum, nesterov: o.nesterov, weightDecay });
}

/** Repeats a recorded run of a plain network under RepOptimizer: first gradients, losses, state after some steps. */
export function checkRepOptimizer(
  c: RepOptimizerCase,
  tensors: ReadonlyMap<string, TensorSource>,
): Promise<CaseResult> {
  return runCase(c.id, async (check) => {
    const get = reader(tensors);
    const init = withPrefix(tensors, "init.");
    const model: Net = new PlainNet(c, init);
    const scales = await repOptScales(named(withPrefix(tensors, "scales.")));
    model.loadStateDict(withPrefix(tensors, "fresh."));
    repOptInitialize(model, scales, {
      pointwise: (path) => get(`fresh_1x1.${path}`),
      identityScales: c.use_identity_scales_for_reinit,
    });
    for (const [key, golden] of init) {
      const value = model.stateDict().get(key)!.readSync();
      if (!key.endsWith("num_batches_tracked")) check.near(`init.${key}`, value, golden, 1e-6);
    }
    const multipliers = repOptMultipliers(model, scales, c.mult_power);
    for (const [key, golden] of withPrefix(tensors, "mult."))
      check.near(`mult.${key}`, multipliers.get(key)!, golden, 1e-6);
    model.loadStateDict(init);
    const learner = new Learner(model, {
      optimizer: optimizerOf(c, multipliers),
      group: noDecayOnNormAndBias,
      returnGradients: true,
    });
    const [images, labels, losses] = [get("images"), get("labels"), get("loss").toFloat64()];
    const [, ...shape] = images.shape;
    const size = c.batch_size * sizeOf(shape);
    const [classes] = init.get("linear.weight")!.shape;
    for (let step = 0; step < c.steps; step++) {
      const b = step % (c.num_images / c.batch_size);
      const pixels = (images.data as Float32Array<ArrayBuffer>).slice(b * size, (b + 1) * size);
      const own = Array.from(labels.data.slice(b * c.batch_size, (b + 1) * c.batch_size), Number);
      const batch = new Tensor("float32", [c.batch_size, ...shape], pixels);
      const { loss, output, outputs } = await learner.train(batch, oneHotTargets(own, classes), c.optimizer.lr);
      check.within(`loss at step ${step}`, Math.abs(loss - losses[step]), 1e-5);
      if (step === 0) {
        check.near("step0.logits", output, get("step0.logits"), 1e-5 * absMax(get("step0.logits")));
        for (const [key, golden] of withPrefix(tensors, "step0.grad."))
          check.near(`step0.grad.${key}`, outputs[`grad:${key}`], golden, 1e-5 * absMax(golden) + 1e-6);
      }
      if (!c.snapshots.includes(step + 1)) continue;
      await learner.sync();
      const state = model.stateDict();
      for (const [key, golden] of withPrefix(tensors, `after${step + 1}.`)) {
        const value = state.get(key)!.readSync();
        if (key.endsWith("num_batches_tracked")) check.equal(key, Number(value.data[0]), Number(golden.data[0]));
        else check.near(`after${step + 1}.${key}`, value, golden, 5e-6 * absMax(golden));
      }
    }
    await learner.dispose();
  });
}
