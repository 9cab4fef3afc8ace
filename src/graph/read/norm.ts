import { sizeOf } from "../../tensor/index.ts";
import { reshape } from "../ops/broadcast.ts";
import { add, div, mul, sqrt, sub } from "../ops/elementwise.ts";
import { asChannelShape, batchNorm } from "../ops/norm.ts";
import { reduceMean } from "../ops/reduce.ts";
import { logSoftmax, softmax } from "../ops/softmax.ts";
import type { Value } from "../value.ts";
import { axisOf, type NodeContext, type Reader } from "./context.ts";

const defaultEpsilon = Math.fround(1e-5);

function readBatchNormalization(node: NodeContext): Value {
  // Up to operator set 13 the mode is said by the outputs alone: the statistics are only there in training.
  const training = node.opset < 14 ? node.outputCount > 1 : node.int("training_mode", 0) === 1;
  if (training) node.fail("training", "it uses the statistics of the batch. Export the model in evaluation mode.");
  node.onlyOutputs(1, "statistics of the batch. Export the model in evaluation mode");
  node.only("spatial", 1);
  const [x, weight, bias, mean, variance] = node.inputs();
  const eps = node.float("epsilon", defaultEpsilon);
  const momentum = 1 - node.float("momentum", 0.9);
  return (
    node.batchNorm?.({ x, weight, bias, mean, variance, eps, momentum }) ??
    batchNorm(x, weight, bias, mean, variance, eps)
  );
}

/**
 * (x − mean) / sqrt(variance + epsilon) over some axes. Centred twice: a mean far from 0 is known to a few units in its
 * last place only, and the second one removes what the first left.
 */
function standardize(x: Value, axes: readonly number[], epsilon: number): Value {
  const centre = (v: Value): Value => sub(v, reduceMean(v, axes, { keepDims: true }));
  const centred = centre(centre(x));
  const variance = reduceMean(mul(centred, centred), axes, { keepDims: true });
  return div(centred, sqrt(add(variance, epsilon)));
}

const axesFrom = (x: Value, first: number): number[] => x.shape.map((_, i) => i).slice(first);

function readLayerNormalization(node: NodeContext): Value {
  node.onlyOutputs(1, "the statistics");
  const x = node.input(0);
  const axis = axisOf(node, node.int("axis", -1), x.shape.length);
  const y = mul(standardize(x, axesFrom(x, axis), node.float("epsilon", defaultEpsilon)), node.input(1));
  const bias = node.optional(2);
  return bias ? add(y, bias) : y;
}

function readInstanceNormalization(node: NodeContext): Value {
  const [x, weight, bias] = node.inputs();
  const y = standardize(x, axesFrom(x, 2), node.float("epsilon", defaultEpsilon));
  const rank = x.shape.length;
  return add(mul(y, asChannelShape(weight, rank)), asChannelShape(bias, rank));
}

/** Weight and bias are per group up to opset 20, per channel from 21 on. */
function readGroupNormalization(node: NodeContext): Value {
  const [x, weight, bias] = node.inputs();
  const groups = node.int("num_groups");
  const [n, c, ...rest] = x.shape;
  const grouped = reshape(x, [n, groups, sizeOf([c / groups, ...rest])]);
  const y = standardize(grouped, [2], node.float("epsilon", defaultEpsilon));
  const vectors = [weight, bias];
  if (node.opset < 21) {
    const [scale, shift] = vectors.map((v) => asChannelShape(v, 3));
    return reshape(add(mul(y, scale), shift), x.shape);
  }
  const [scale, shift] = vectors.map((v) => asChannelShape(v, x.shape.length));
  return add(mul(reshape(y, x.shape), scale), shift);
}

/** Up to opset 12 the axes from `axis` on are one, as if the tensor were a matrix. */
const readSoftmax =
  (f: (x: Value, axis: number) => Value): Reader =>
  (node) => {
    const x = node.input(0);
    const rank = x.shape.length;
    const axis = axisOf(node, node.int("axis", node.opset < 13 ? 1 : -1), rank);
    if (node.opset >= 13 || axis === rank - 1) return f(x, axis);
    const rows = sizeOf(x.shape.slice(0, axis));
    return reshape(f(reshape(x, [rows, sizeOf(x.shape.slice(axis))]), 1), x.shape);
  };

export const normReaders: Readonly<Record<string, Reader>> = {
  BatchNormalization: readBatchNormalization,
  GroupNormalization: readGroupNormalization,
  InstanceNormalization: readInstanceNormalization,
  LayerNormalization: readLayerNormalization,
  LogSoftmax: readSoftmax(logSoftmax),
  Softmax: readSoftmax(softmax),
};
