import { BaseBlock, BottleneckBlock, ConvBnRelu, LightBlock, RepMLP } from "../../src/blocks/index.ts";
import { globalAvgPool, maxPool2d, relu, type Value } from "../../src/graph/index.ts";
import { Predictor } from "../../src/inference/index.ts";
import { Linear, Module, type Net } from "../../src/nn/index.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import { classification, oneHotTargets } from "../../src/tasks/index.ts";
import { sizeOf, Tensor, type TensorSource } from "../../src/tensor/index.ts";
import {
  adamW,
  constantRate,
  Learner,
  type Optimizer,
  type Schedule,
  sgd,
  warmupCosine,
} from "../../src/training/index.ts";
import { absMax, type CaseResult, reader, runCase, withPrefix } from "./report.ts";

/** A case of the goldens' training list. */
export interface TrainingCase {
  readonly id: string;
  readonly file: string;
  readonly batch_size: number;
  readonly num_images: number;
  readonly steps: number;
  readonly snapshots: readonly number[];
  readonly label_smoothing: number;
  readonly architecture: string;
  readonly arch_args: Readonly<Record<string, never>>;
  readonly optimizer: Readonly<Record<string, never>>;
  readonly schedule?: Readonly<Record<string, never>>;
  readonly steps_stable_under_init_noise: number;
}

/** Three 1×1 convolutions with a RepMLP each, pooling between (the goldens' `pure_repmlp`). */
class PureRepMLP extends Module {
  readonly fc0: ConvBnRelu;
  readonly rep0: RepMLP;
  readonly fc1: ConvBnRelu;
  readonly rep1: RepMLP;
  readonly fc2: ConvBnRelu;
  readonly rep2: RepMLP;
  readonly linear: Linear;

  constructor(a: TrainingCase["arch_args"]) {
    super();
    const { channels, groups, image } = a as unknown as { channels: number[]; groups: number[]; image: number };
    const reparamConvKernels = a.reparam_conv_k ?? [];
    const repmlp = (i: number): RepMLP =>
      new RepMLP({
        inChannels: channels[i],
        height: image / 2 ** i,
        width: image / 2 ** i,
        partition: [a.h, a.w],
        reparamConvKernels,
        groups: groups[i],
        fc1Fc2Reduction: a.fc1_fc2_reduction,
      });
    this.fc0 = new ConvBnRelu(3, channels[0], { kernelSize: 1 });
    this.rep0 = repmlp(0);
    this.fc1 = new ConvBnRelu(channels[0], channels[1], { kernelSize: 1 });
    this.rep1 = repmlp(1);
    this.fc2 = new ConvBnRelu(channels[1], channels[2], { kernelSize: 1 });
    this.rep2 = repmlp(2);
    this.linear = new Linear(channels[2], a.classes);
  }

  forward(x: Value): Value {
    const pool = (y: Value): Value => maxPool2d(y, { kernelSize: 2 });
    const a = pool(relu(this.rep0.forward(this.fc0.forward(x))));
    const b = pool(relu(this.rep1.forward(this.fc1.forward(a))));
    return this.linear.forward(globalAvgPool(relu(this.rep2.forward(this.fc2.forward(b)))));
  }
}

/** Every residual block once (the goldens' `resnetish`). */
class ResNetish extends Module {
  readonly stem = new ConvBnRelu(3, 8, { kernelSize: 3, padding: 1 });
  readonly block0 = new BaseBlock({ inChannels: 8, midChannels: 4, outChannels: 16 });
  readonly block1: LightBlock;
  readonly block2 = new BaseBlock({ inChannels: 16, midChannels: 8, outChannels: 32, stride: 2 });
  readonly block3: BottleneckBlock;
  readonly linear: Linear;

  constructor(a: TrainingCase["arch_args"]) {
    super();
    const image = a.image as number;
    this.block1 = new LightBlock({
      inChannels: 16,
      midChannels: 8,
      outChannels: 16,
      height: image / 2,
      width: image / 2,
      partition: a.light_h,
      reparamConvKernels: a.reparam_conv_k_light ?? [],
      fc1Fc2Reduction: a.fc1_fc2_reduction_light,
      groups: a.groups,
    });
    this.block3 = new BottleneckBlock({
      inChannels: 32,
      midChannels: 16,
      outChannels: 32,
      reduction: a.bottleneck_r ?? 2,
      height: image / 4,
      width: image / 4,
      partition: 1,
      reparamConvKernels: a.reparam_conv_k_bottleneck ?? [],
      fc1Fc2Reduction: a.fc1_fc2_reduction_bottleneck,
      groups: a.groups,
    });
    this.linear = new Linear(32, a.classes);
  }

  forward(x: Value): Value {
    const stem = maxPool2d(this.stem.forward(x), { kernelSize: 3, stride: 2, padding: 1 });
    const y = [this.block0, this.block1, this.block2, this.block3].reduce((v: Value, b) => b.forward(v), stem);
    return this.linear.forward(globalAvgPool(y));
  }
}

const architectures: Readonly<Record<string, (args: TrainingCase["arch_args"]) => Net>> = {
  pure_repmlp: (a) => new PureRepMLP(a),
  resnetish: (a) => new ResNetish(a),
};

function optimizerOf(o: TrainingCase["optimizer"]): Optimizer {
  const weightDecay = o.weight_decay;
  return (o.type as string) === "adamw"
    ? adamW({ betas: o.betas, eps: o.eps, weightDecay })
    : sgd({ momentum: o.momentum, nesterov: o.nesterov, weightDecay });
}

const scheduleOf = ({ optimizer, schedule: s }: TrainingCase): Schedule =>
  s
    ? warmupCosine({ lr: optimizer.lr, totalSteps: s.T_cosine_max, warmupSteps: s.warmup, minLr: s.eta_min })
    : constantRate(optimizer.lr);

/** Repeats a recorded training run: losses, first gradients, state after some steps, both forms at the end. */
export function checkTraining(c: TrainingCase, tensors: ReadonlyMap<string, TensorSource>): Promise<CaseResult> {
  const build = architectures[c.architecture];
  if (!build)
    return Promise.resolve({
      id: c.id,
      status: "skipped",
      detail: `architecture ${c.architecture} is not implemented`,
    });
  return runCase(c.id, async (check) => {
    const get = reader(tensors);
    const model = check.allRead("arch_args", c.arch_args, build);
    model.loadStateDict(withPrefix(tensors, "init."));
    const images = get("images");
    const labels = get("labels");
    const [expectedLoss, expectedRate] = [get("loss").toFloat64(), get("lr").toFloat64()];
    const schedule = scheduleOf(c);
    const learner = new Learner(model, {
      optimizer: optimizerOf(c.optimizer),
      task: classification({ labelSmoothing: c.label_smoothing }),
      returnGradients: true,
    });
    const [, ...shape] = images.shape;
    const size = c.batch_size * sizeOf(shape);
    const classes = c.arch_args.classes as number;
    const batchOf = (step: number): { images: Tensor; targets: Tensor } => {
      const b = step % (c.num_images / c.batch_size);
      const pixels = (images.data as Float32Array<ArrayBuffer>).slice(b * size, (b + 1) * size);
      const own = Array.from(labels.data.slice(b * c.batch_size, (b + 1) * c.batch_size), Number);
      return {
        images: new Tensor("float32", [c.batch_size, ...shape], pixels),
        targets: oneHotTargets(own, classes),
      };
    };
    /** Rounding grows with the steps; AdamW divides by small second moments from the first one on. */
    const afterTolerance = (steps: number): number => {
      if (steps > 10) return 1e-4;
      return steps > 1 || (c.optimizer.type as string) === "adamw" ? 2e-5 : 5e-6;
    };
    const exactLoss = tensors.get("loss_float64")?.readSync().toFloat64() ?? expectedLoss;
    for (let step = 0; step < c.steps; step++) {
      const lr = schedule(step);
      check.within(`lr at step ${step}`, Math.abs(lr - expectedRate[step]), 1e-7 * Math.max(1e-3, expectedRate[step]));
      const batch = batchOf(step);
      const { loss, output, outputs } = await learner.train(batch.images, batch.targets, lr);
      const tolerance = step < 10 ? 1e-5 : step <= c.steps_stable_under_init_noise ? 5e-5 : 1e-3;
      const rounding = Math.abs(expectedLoss[step] - exactLoss[step]);
      check.within(`loss at step ${step}`, Math.abs(loss - exactLoss[step]), Math.max(tolerance, 4 * rounding));
      if (step === 0) {
        check.near("step0.logits", output, get("step0.logits"), 1e-5 * absMax(get("step0.logits")));
        for (const [key, golden] of withPrefix(tensors, "step0.grad."))
          check.near(`step0.grad.${key}`, outputs[`grad:${key}`], golden, 1e-5 * Math.max(absMax(golden), 1e-3));
      }
      if (c.snapshots.includes(step + 1)) {
        await learner.sync();
        const state = model.stateDict();
        for (const [key, golden] of withPrefix(tensors, `after${step + 1}.`)) {
          if (key.endsWith("num_batches_tracked"))
            check.equal(key, Number(state.get(key)!.readSync().data[0]), Number(golden.data[0]));
          else
            check.near(
              `after${step + 1}.${key}`,
              state.get(key)!.readSync(),
              golden,
              afterTolerance(step + 1) * Math.max(1, absMax(golden)),
            );
        }
      }
    }
    await learner.sync();
    model.eval();
    const first = batchOf(0).images;
    for (const [name, form] of [
      ["final.eval_logits", model],
      ["final.deploy_logits", convertToDeploy(model)],
    ] as const) {
      const predictor = await Predictor.create(form, { inputShape: shape, batchSize: c.batch_size });
      check.near(name, await predictor.run(first), get(name), 1e-4 * Math.max(1, absMax(get(name))));
    }
    await learner.dispose();
  });
}
