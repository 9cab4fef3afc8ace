import { type Node, reachable } from "../graph/index.ts";
import { type Shape, sizeOf } from "../tensor/index.ts";
import { cloneModule, type Module, type Net } from "./module.ts";
import { Buffer } from "./parameter.ts";
import { traceModel } from "./trace-model.ts";

/** Number of trainable values; running statistics and counters do not count. */
export const countParameters = (model: Module): number =>
  [...new Set([...model.state()].map(([, p]) => p))].reduce(
    (n, p) => (p instanceof Buffer ? n : n + sizeOf(p.shape)),
    0,
  );

/** Multiply-adds of one node: output values times inputs summed per value. Only matrix work counts. */
const multiplyAdds: Readonly<Record<string, (node: Node) => number>> = {
  conv2d: ({ inputs: [, w], outputs: [y] }) => sizeOf(y.shape) * sizeOf(w.shape.slice(1)),
  conv2dGradInput: ({ inputs: [dy, w] }) => sizeOf(dy.shape) * sizeOf(w.shape.slice(1)),
  linear: ({ inputs: [x], outputs: [y] }) => sizeOf(y.shape) * x.shape[1],
  matmul: ({ inputs: [a], outputs: [y] }) => sizeOf(y.shape) * a.shape[a.shape.length - 1],
};

/** Multiply-adds of a node of the graph; 0 for anything but convolutions and matrix products. */
export const nodeMacs = (node: Node): number => multiplyAdds[node.op.name]?.(node) ?? 0;

/** Multiply-adds of a network's convolutions and linear layers for one input of `shape` (the paper's "FLOPs"). */
export const countMacs = (model: Net, shape: Shape): number =>
  reachable([traceModel(cloneModule(model).eval(), shape).output]).reduce((n, node) => n + nodeMacs(node), 0);
