import {
  add,
  batchNormTrain,
  conv2d,
  crossEntropy,
  grad,
  input,
  linear,
  maxPool2d,
  mul,
  type ParameterRef,
  parameter,
  reduceMean,
  relu,
  reshape,
  sub,
  type Value,
} from "../../src/graph/index.ts";
import type { StepGraph } from "../../src/runtime/index.ts";
import { registerNode } from "../../src/runtime/node/platform.ts";
import { rng, type Shape, sizeOf, Tensor } from "../../src/tensor/index.ts";

registerNode();

/** Standard normal values. */
export function normals(shape: Shape, seed: number, name: string): Tensor {
  const random = rng(seed, name);
  return Tensor.float32(
    shape,
    Array.from({ length: sizeOf(shape) }, () => random.normal()),
  );
}

/** A parameter with random values around `centre`. */
export function randomRef(name: string, shape: Shape, centre = 0): ParameterRef {
  const random = rng(1, name);
  const values = Tensor.float32(
    shape,
    Array.from({ length: sizeOf(shape) }, () => centre + 0.3 * random.normal()),
  );
  return { dtype: "float32", shape, source: () => values };
}

export interface SmallStepOptions {
  readonly batch?: number;
  /** Weight decay. */
  readonly decay?: number;
  /** Channels. */
  readonly width?: number;
}

export interface SmallStep {
  readonly graph: StepGraph;
  readonly feeds: (seed: number) => Record<string, Tensor>;
}

/**
 * A whole training step: conv, batch norm, another conv with the same batch norm again, a second batch norm, pool,
 * linear, cross entropy; plain gradient descent with weight decay, running means tracked.
 */
export function smallStep({ batch = 5, decay = 0.01, width = 4 }: SmallStepOptions = {}): SmallStep {
  const refs = {
    "stem.weight": randomRef("stem.weight", [width, 2, 3, 3]),
    "bn.weight": randomRef("bn.weight", [width], 1),
    "bn.bias": randomRef("bn.bias", [width]),
    "mix.weight": randomRef("mix.weight", [width, width, 1, 1]),
    "last.weight": randomRef("last.weight", [width], 1),
    "last.bias": randomRef("last.bias", [width]),
    "head.weight": randomRef("head.weight", [3, width]),
  };
  const buffers = {
    "bn.running_mean": randomRef("bn.running_mean", [width]),
    "last.running_mean": randomRef("m", [width]),
  };
  const values = Object.fromEntries(
    Object.entries({ ...refs, ...buffers }).map(([name, ref]) => [name, parameter(ref)]),
  );
  const next = new Map<ParameterRef, Value>();
  const means: Record<string, Value> = {};
  const norm = (layer: "bn" | "last", x: Value): Value => {
    const { y, mean } = batchNormTrain(x, values[`${layer}.weight`], values[`${layer}.bias`]);
    means[layer] = add(mul(means[layer] ?? values[`${layer}.running_mean`], 0.9), mul(mean, 0.1));
    return y;
  };
  const x = input("x", [batch, 2, 6, 6]);
  const stem = relu(norm("bn", conv2d(x, values["stem.weight"], { padding: 1 })));
  const mixed = add(stem, norm("bn", conv2d(stem, values["mix.weight"])));
  const pooled = reduceMean(maxPool2d(norm("last", mixed), { kernelSize: 2 }), [2, 3]);
  const loss = crossEntropy(linear(pooled, values["head.weight"]), input("labels", [batch], "int64"));
  const learningRate = input("lr", [1]);
  const gradients = grad(
    loss,
    Object.keys(refs).map((name) => values[name]),
  );
  for (const [i, [name, ref]] of Object.entries(refs).entries()) {
    const flat = reshape(values[name], [-1]);
    const direction = add(reshape(gradients[i], [-1]), mul(flat, decay));
    next.set(ref, sub(flat, mul(direction, learningRate)));
  }
  next.set(buffers["bn.running_mean"], means.bn);
  next.set(buffers["last.running_mean"], means.last);
  const names = new Map(Object.entries({ ...refs, ...buffers }).map(([name, ref]) => [ref, name]));
  const feeds = (seed: number): Record<string, Tensor> => {
    const random = rng(seed, "batch");
    return {
      x: Tensor.float32(
        [batch, 2, 6, 6],
        Array.from({ length: batch * 72 }, () => random.normal()),
      ),
      labels: Tensor.of(
        "int64",
        [batch],
        Array.from({ length: batch }, () => random.below(3)),
      ),
      lr: Tensor.float32([1], [0.1]),
    };
  };
  return { graph: { outputs: { loss }, next, names }, feeds };
}
