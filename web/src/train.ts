import {
  ConvBnRelu,
  convertToDeploy,
  Learner,
  Module,
  nn,
  oneHotTargets,
  ops,
  platform,
  RepMLP,
  rng,
  sgd,
  Tensor,
  type Value,
  verifyEquivalence,
} from "../../src/index.ts";
import type { Job, JobResult } from "./job.ts";

const CLASSES = 4;
const SIZE = 14;
const BATCH = 16;

/** A RepMLP with all its parts: Global Perceptron over four partitions, FC3 and Local Perceptron in four groups. */
export class StripesNet extends Module {
  readonly stem = new ConvBnRelu(1, 8, { kernelSize: 1 });
  readonly mix = new RepMLP({
    inChannels: 8,
    height: SIZE,
    width: SIZE,
    partition: 7,
    reparamConvKernels: [1, 3],
    groups: 4,
  });
  readonly linear = new nn.Linear(8, CLASSES);

  forward(x: Value): Value {
    const y = ops.maxPool2d(ops.relu(this.mix.forward(this.stem.forward(x))), { kernelSize: 2 });
    return this.linear.forward(ops.globalAvgPool(y));
  }
}

/** Pictures of four kinds of stripes with noise: the same on every machine. */
export function stripes(step: number): { readonly images: Tensor; readonly targets: Tensor } {
  const random = rng(step, "stripes");
  const labels = Int32Array.from({ length: BATCH }, () => random.below(CLASSES));
  const images = new Float32Array(BATCH * SIZE * SIZE);
  for (let n = 0, i = 0; n < BATCH; n++)
    for (let y = 0; y < SIZE; y++)
      for (let x = 0; x < SIZE; x++, i++) {
        const along = [x, y, x + y, x - y][labels[n]];
        images[i] = Math.sin(along) + 0.5 * random.normal();
      }
  return { images: new Tensor("float32", [BATCH, 1, SIZE, SIZE], images), targets: oneHotTargets(labels, CLASSES) };
}

/** Trains a small network for some steps, converts it and compares both forms. Runs in a page and in Node. */
export async function trainAndVerify(
  { device, steps, threads, deviceOnly = false }: Job,
  onStep: (step: number, loss: number) => void = () => {},
): Promise<JobResult> {
  const model = new StripesNet();
  model.initialize(1);
  const session = deviceOnly ? { extra: { session: { disable_cpu_ep_fallback: "1" } } } : {};
  const optimizer = sgd({ momentum: 0.9, weightDecay: 1e-4 });
  const learner = new Learner(model, { optimizer, device, threads, session });
  const losses: number[] = [];
  let started = 0;
  for (let step = 0; step < steps; step++) {
    if (step === 1) started = performance.now();
    const { images, targets } = stripes(step);
    const { loss } = await learner.train(images, targets, 0.02);
    losses.push(loss);
    onStep(step + 1, loss);
  }
  const stepMs = (performance.now() - started) / Math.max(1, steps - 1);
  await learner.sync();
  model.eval();
  const deploy = convertToDeploy(model);
  const inputs = stripes(999).images;
  const { maxAbs, maxRel, top1 } = await verifyEquivalence(model, deploy, { inputs, device, threads });
  // Not before: with the last session WebGPU forgets the shaders it compiled, which the comparison mostly needs again.
  await learner.dispose();
  const available = (await platform(device)).threads;
  return {
    device,
    threads: Math.min(threads ?? available, available),
    losses,
    stepMs,
    maxAbs,
    maxRel,
    agree: top1.agree,
    total: top1.total,
    parameters: { train: nn.countParameters(model), deploy: nn.countParameters(deploy) },
  };
}
