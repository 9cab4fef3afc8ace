import { reachable } from "../graph/index.ts";
import { cloneModule, countParameters, type Net, nodeMacs, traceModel } from "../nn/index.ts";
import type { Shape } from "../tensor/index.ts";

/** One layer of a network, with everything below it. */
export interface LayerRow {
  /** Path in the module tree; empty for the network itself. */
  readonly path: string;
  /** Class of the module. */
  readonly type: string;
  /** Levels below the network. */
  readonly depth: number;
  /** Absent for a layer that only holds others and is never called itself. */
  readonly outputShape?: Shape;
  readonly parameters: number;
  /** Multiply-adds of convolutions and matrix products for one input. */
  readonly macs: number;
}

/** The layers of a network in evaluation mode, in tree order, down to `depth` levels. Needs no values. */
export function layerTable(model: Net, inputShape: Shape, depth = Number.POSITIVE_INFINITY): LayerRow[] {
  const net = cloneModule(model).eval();
  const { output, layers } = traceModel(net, inputShape);
  const nodes = reachable([output]).map((node) => ({ path: node.path, macs: nodeMacs(node) }));
  return [...net.modules()].flatMap(([path, module]) => {
    const level = path ? path.split(".").length : 0;
    const parameters = countParameters(module);
    const inside = (p: string): boolean => !path || p === path || p.startsWith(`${path}.`);
    const macs = nodes.reduce((n, node) => n + (inside(node.path) ? node.macs : 0), 0);
    if (level > depth || (path && !parameters && !macs)) return [];
    const shape = path ? layers.get(path)?.shape : output.shape;
    return [{ path, type: module.constructor.name, depth: level, outputShape: shape, parameters, macs }];
  });
}
