/*
 * This package's own tasks, for Node and pages: a training step, an inference, the building of a step. All networks
 * have the values of the goldens' formula, which the other contestants use too.
 */
import { fillByFormula, formulaInput } from "../../scripts/conformance/formula.ts";
import {
  ConvBnRelu,
  convertToDeploy,
  createModel,
  Learner,
  Module,
  modelInfo,
  type Net,
  nn,
  oneHotTargets,
  ops,
  Predictor,
  RepMLP,
  sgd,
  type Tensor,
  type Value,
} from "../../src/index.ts";
import type { Prepared, Tasks } from "./task.ts";

/** A network and the shape of its input. */
export interface NetworkOptions {
  /** A name in the registry, `repmlp-block` or `conv-bn-relu`. */
  readonly net: string;
  readonly batch: number;
  /** Of a block, or of the stages of the CIFAR network. */
  readonly channels?: number | readonly number[];
  /** Height and width of a block's input in pixels. */
  readonly size?: number;
  readonly threads: number;
}

/** A block as a classifier: the average over the map gives one logit per channel. */
class Pooled extends Module {
  constructor(readonly block: Net) {
    super();
  }

  forward(x: Value): Value {
    return ops.globalAvgPool(this.block.forward(x));
  }
}

const repmlpBlock = (channels: number, size: number): Net =>
  new RepMLP({
    inChannels: channels,
    height: size,
    width: size,
    partition: 7,
    groups: 4,
    reparamConvKernels: [1, 3, 5],
  });

/** A network in training form with the formula's values, and one batch for it. */
export function networkOf({ net, batch, channels, size = 14 }: NetworkOptions): { model: Net; images: Tensor } {
  if (net === "repmlp-block" || net === "conv-bn-relu") {
    const c = channels as number;
    const block = net === "repmlp-block" ? repmlpBlock(c, size) : new ConvBnRelu(c, c, { kernelSize: 3, padding: 1 });
    return { model: fillByFormula(new Pooled(block)), images: formulaInput([batch, c, size, size]) };
  }
  const { channels: inputs, imageSize } = modelInfo(net);
  const model = fillByFormula(createModel(net, { channels }));
  return { model, images: formulaInput([batch, inputs, imageSize, imageSize]) };
}

/** Classes of the pictures of a batch: 0, 1, 2, … */
export const labelsOf = (batch: number, classes: number): Int32Array =>
  Int32Array.from({ length: batch }, (_, i) => i % classes);

/** So small that the weights hardly move, however often a step is repeated. */
export const learningRate = 1e-4;

const learnerOf = (model: Net, threads: number): Learner =>
  new Learner(model, { optimizer: sgd({ momentum: 0.9, weightDecay: 1e-4 }), threads });

/** Forward, loss, backward and SGD with momentum, state staying in the program. `check` is the first loss. */
async function train(options: NetworkOptions): Promise<Prepared> {
  const { model, images } = networkOf(options);
  const learner = learnerOf(model, options.threads);
  const [, classes] = (await learner.compile(images.shape)).output;
  const targets = oneHotTargets(labelsOf(options.batch, classes), classes);
  const step = async (): Promise<number> => (await learner.train(images, targets, learningRate)).loss;
  const check = await step();
  return { facts: { check }, run: step };
}

/** Outputs of the deploy form, or of the training form in evaluation mode. `check` is the mean size of an output. */
async function infer({ form, ...options }: NetworkOptions & { readonly form: "deploy" | "train" }): Promise<Prepared> {
  const { model, images } = networkOf(options);
  const net = form === "deploy" ? convertToDeploy(model.eval()) : model.eval();
  const [batchSize, ...inputShape] = images.shape;
  const predictor = await Predictor.create(net, { inputShape, batchSize, threads: options.threads });
  return {
    facts: { check: meanSize(await predictor.run(images)), ...sizeOfWork(net, images) },
    run: () => predictor.run(images),
  };
}

/** Mean absolute value. */
export function meanSize({ data }: { readonly data: ArrayLike<number | bigint> }): number {
  let sum = 0;
  for (let i = 0; i < data.length; i++) sum += Math.abs(Number(data[i]));
  return sum / data.length;
}

/** Floating-point operations of a batch, and bytes of the weights. */
const sizeOfWork = (net: Net, images: Tensor): { readonly flops: number; readonly weightBytes: number } => ({
  flops: 2 * nn.countMacs(net, images.shape),
  weightBytes: 4 * nn.countParameters(net),
});

/** Everything between a model with values and the first step: tracing, gradients, lowering, the session, its state. */
async function buildStep(options: NetworkOptions): Promise<Prepared> {
  const { model, images } = networkOf(options);
  return {
    run: async () => {
      const learner = learnerOf(model, options.threads);
      await learner.compile(images.shape);
      await learner.dispose();
    },
  };
}

export const networkTasks: Tasks = { train, infer, buildStep };
