import type { OnnxModel, OnnxNode } from "../onnx/index.ts";
import { derived, type Shape, sizeOf, type TensorSource } from "../tensor/index.ts";

/**
 * Makes biases the third input of the convolution or matrix product that they are added to, under their own names:
 * `Conv(x, w) + reshape(b)` becomes `Conv(x, w, b)`. Runtimes do the same while loading; in the file it is what people
 * and tools expect to see.
 *
 * @param keys  names of the network's parameters; a bias that lost its name to a reshape gets it back
 */
export function foldBiases(model: OnnxModel, keys: ReadonlySet<string>): OnnxModel {
  return new BiasFolding(model, keys).run();
}

class BiasFolding {
  private readonly producers: ReadonlyMap<string, OnnxNode>;
  private readonly uses = new Map<string, number>();
  private readonly shapes: ReadonlyMap<string, readonly (number | string)[]>;
  private readonly initializers: Map<string, TensorSource>;

  constructor(
    private readonly model: OnnxModel,
    private readonly keys: ReadonlySet<string>,
  ) {
    const { nodes, outputs, valueInfo = [], initializers } = model;
    this.producers = new Map(nodes.flatMap((node) => node.outputs.map((name) => [name, node])));
    for (const name of [...nodes.flatMap((n) => n.inputs), ...outputs.map((o) => o.name)])
      this.uses.set(name, (this.uses.get(name) ?? 0) + 1);
    this.shapes = new Map(valueInfo.map(({ name, shape = [] }) => [name, shape]));
    this.initializers = new Map(initializers);
  }

  run(): OnnxModel {
    const merged = new Map<OnnxNode, OnnxNode>();
    const gone = new Set<OnnxNode>();
    for (const add of this.model.nodes) {
      const found = add.opType === "Add" ? this.biased(add) : undefined;
      if (!found) continue;
      merged.set(found.node, { ...found.node, inputs: [...found.node.inputs, found.bias], outputs: add.outputs });
      gone.add(add);
    }
    return this.withoutUnused(this.model.nodes.filter((n) => !gone.has(n)).map((n) => merged.get(n) ?? n));
  }

  /** The product and the bias of an addition, if it is one of these two. */
  private biased(add: OnnxNode): { node: OnnxNode; bias: string } | undefined {
    for (const [y, b] of [add.inputs, add.inputs.toReversed()]) {
      const node = this.producers.get(y);
      if (node?.inputs.length !== 2 || this.uses.get(y) !== 1) continue;
      const weight = this.initializers.get(node.inputs[1]);
      if (!weight) continue;
      const bias = this.bias(b, node, weight);
      if (bias !== undefined) return { node, bias };
    }
    return undefined;
  }

  /** Name of the vector that is `b` seen along the output channels of `node`. */
  private bias(b: string, node: OnnxNode, weight: TensorSource): string | undefined {
    const channels = outputChannels(node, weight.shape);
    const trailing = node.opType === "Conv" ? weight.shape.length - 2 : 0;
    const own = this.initializers.get(b);
    const reshape = own ? undefined : this.producers.get(b);
    const shape = own?.shape ?? this.shapes.get(b);
    if (channels === undefined || !shape || !alongChannels(shape, channels, trailing)) return undefined;
    if (!own) return reshape?.opType === "Reshape" && this.isVector(reshape.inputs[0]) ? reshape.inputs[0] : undefined;
    if (own.shape.length === 1 && this.keys.has(b)) return b;
    const name = node.inputs[1].replace(/weight$/, "bias");
    if (!this.keys.has(name) || this.initializers.has(name)) return undefined;
    this.initializers.set(
      name,
      derived(own.dtype, [channels], [own], (t) => t.reshape([channels])),
    );
    return name;
  }

  private isVector(name: string): boolean {
    return this.initializers.get(name)?.shape.length === 1;
  }

  /** Drops reshapes that nobody reads any more, and constants that only they read. */
  private withoutUnused(nodes: readonly OnnxNode[]): OnnxModel {
    const needed = new Set(this.model.outputs.map(({ name }) => name));
    const live = nodes.toReversed().filter((node) => {
      const isLive = node.outputs.some((name) => needed.has(name));
      if (isLive) for (const name of node.inputs) needed.add(name);
      return isLive;
    });
    const { valueInfo } = this.model;
    const made = new Set(live.flatMap((node) => node.outputs));
    return {
      ...this.model,
      nodes: live.toReversed(),
      initializers: new Map([...this.initializers].filter(([name]) => needed.has(name))),
      ...(valueInfo && { valueInfo: valueInfo.filter(({ name }) => made.has(name)) }),
    };
  }
}

/** Number of output channels of a convolution or matrix product; nothing for other ops. */
function outputChannels({ opType, attrs }: OnnxNode, weight: Shape): number | undefined {
  if (opType === "Conv") return weight[0];
  if (opType !== "Gemm" || attrs.transA === 1) return undefined;
  return weight[attrs.transB === 1 ? 0 : 1];
}

/** `[1, …, C, 1, …]` with `trailing` ones at the end. */
const alongChannels = (shape: readonly (number | string)[], channels: number, trailing: number): boolean =>
  sizeOf(shape.filter((d) => typeof d === "number")) === channels &&
  shape.every((d) => typeof d === "number") &&
  shape.at(-1 - trailing) === channels &&
  shape.slice(shape.length - trailing).every((d) => d === 1);
