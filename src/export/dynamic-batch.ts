import { fmt, RepmlpError } from "../errors.ts";
import type { AttributeValue, OnnxDim, OnnxModel, OnnxNode, OnnxValueInfo } from "../onnx/index.ts";
import { sameShape, Tensor, type TensorSource } from "../tensor/index.ts";

/** One network written for a fixed batch size. */
export interface FixedBatch {
  readonly model: OnnxModel;
  readonly batch: number;
}

/**
 * One graph for every batch size, from the same network written for two: what the two have in common is kept, and a
 * size that differs depends on the batch. A differing size of a tensor becomes an expression of `name` (`"batch"`,
 * `"4*batch"`), and the differing entry of a Reshape's target becomes −1 or, where one is taken already, 0 ("as in the
 * input"). Differing sizes of a Resize are read from its input. Nothing else may differ.
 *
 * Both batch sizes should be at least 2, since writing for 1 leaves out transposes of unit axes, and should differ from
 * all other sizes of the network, so that equal constants are shared alike in both.
 *
 * @throws RepmlpError `export/batch` naming the node that depends on the batch size in another way
 */
export function openBatch(first: FixedBatch, second: FixedBatch, name = "batch"): OnnxModel {
  return new Opening(first, second, name).run();
}

class Opening {
  /** Names in the second graph by what they stand for in the first. */
  private readonly counterpart = new Map<string, string>();
  /** Sizes of every tensor of the opened graph. */
  private readonly shapes = new Map<string, readonly OnnxDim[]>();
  private readonly initializers = new Map<string, TensorSource>();
  /** Opened reshape targets by their values, so that equal ones are written once. */
  private readonly targets = new Map<string, string>();
  /** Nodes that come before the one that is being opened: those that read sizes. */
  private readonly before: OnnxNode[] = [];

  constructor(
    private readonly first: FixedBatch,
    private readonly second: FixedBatch,
    private readonly name: string,
  ) {}

  run(): OnnxModel {
    const [a, b] = [this.first.model, this.second.model];
    mustOpen(
      a.nodes.length === b.nodes.length,
      () =>
        `the graphs for batch ${this.first.batch} and ${this.second.batch} have ${a.nodes.length} and ${b.nodes.length} nodes`,
    );
    const inputs = a.inputs.map((info, i) => this.openInfo(info, b.inputs[i]));
    this.readShapes();
    const nodes = a.nodes.flatMap((node, i) => {
      const opened = this.openNode(node, b.nodes[i]);
      return [...this.before.splice(0), opened];
    });
    const opened = (info: OnnxValueInfo): OnnxValueInfo => ({ ...info, shape: this.shapes.get(info.name) });
    return {
      ...a,
      nodes,
      inputs,
      outputs: a.outputs.map(opened),
      initializers: this.initializers,
      ...(a.valueInfo && { valueInfo: a.valueInfo.map(opened) }),
    };
  }

  private openInfo(a: OnnxValueInfo, b: OnnxValueInfo | undefined): OnnxValueInfo {
    mustOpen(b && a.name === b.name, () => `input ${a.name} is missing for batch ${this.second.batch}`);
    this.counterpart.set(a.name, b.name);
    const shape = this.openShape(a.shape ?? [], b.shape ?? []);
    this.shapes.set(a.name, shape);
    return { ...a, shape };
  }

  /** Sizes of intermediate tensors and outputs, paired by the node that makes them. */
  private readShapes(): void {
    const of = ({ valueInfo = [], outputs }: OnnxModel) => new Map([...valueInfo, ...outputs].map((v) => [v.name, v]));
    const [a, b] = [of(this.first.model), of(this.second.model)];
    for (const [i, node] of this.first.model.nodes.entries())
      for (const [k, output] of node.outputs.entries()) {
        const other = this.second.model.nodes[i].outputs[k];
        this.counterpart.set(output, other);
        const [x, y] = [a.get(output)?.shape, b.get(other)?.shape];
        if (x && y) this.shapes.set(output, this.openShape(x, y));
      }
  }

  private openShape(a: readonly OnnxDim[], b: readonly OnnxDim[]): OnnxDim[] {
    return a.map((d, i) => (d === b[i] ? d : this.expression(Number(d), Number(b[i]))));
  }

  /** The size that is `a` for the first batch and `b` for the second, as a multiple of the batch plus a constant. */
  private expression(a: number, b: number): string {
    const slope = (b - a) / (this.second.batch - this.first.batch);
    const rest = a - slope * this.first.batch;
    // An unnamed size: correct, only less telling.
    if (!Number.isInteger(slope) || !Number.isInteger(rest)) return "";
    return `${slope === 1 ? "" : `${slope}*`}${this.name}${rest > 0 ? `+${rest}` : rest < 0 ? rest : ""}`;
  }

  private openNode(node: OnnxNode, other: OnnxNode): OnnxNode {
    mustOpen(
      node.opType === other.opType && node.inputs.length === other.inputs.length,
      () => `node ${node.name} is ${node.opType} for one batch size and ${other.opType} for another`,
    );
    mustOpen(
      sameAttributes(node.attrs, other.attrs),
      () => `the attributes of ${node.opType} node ${node.name} depend on the batch size`,
    );
    return { ...node, inputs: node.inputs.map((input, i) => this.openInput(node, i, input, other.inputs[i])) };
  }

  private openInput(node: OnnxNode, position: number, a: string, b: string): string {
    if (a === "" && b === "") return a;
    const constant = this.first.model.initializers.get(a);
    const other = this.second.model.initializers.get(b);
    if (!constant || !other) {
      mustOpen(this.counterpart.get(a) === b, () => `${node.opType} node ${node.name} reads ${a} or ${b}`);
      return a;
    }
    if (sameConstant(a, constant, b, other)) {
      this.initializers.set(a, constant);
      return a;
    }
    if (node.opType === "Resize" && position === 3 && constant instanceof Tensor && other instanceof Tensor)
      return this.openSizes(node, constant, other);
    mustOpen(
      node.opType === "Reshape" && position === 1 && constant instanceof Tensor && other instanceof Tensor,
      () => `constant input ${position} of ${node.opType} node ${node.name} depends on the batch size`,
    );
    return this.openTarget(node, constant, other);
  }

  /** Sizes of a Resize: those that depend on the batch as its input has them, the others as they are. */
  private openSizes(node: OnnxNode, a: Tensor, b: Tensor): string {
    const [image] = node.inputs;
    const input = this.shapes.get(image) ?? [];
    const shape = this.openShape([...a.toFloat64()], [...b.toFloat64()]);
    const key = `${image} ${shape.join()}`;
    const known = this.targets.get(key);
    if (known !== undefined) return known;
    const name = `${node.name}_sizes`;
    const parts: string[] = [];
    for (const [i, d] of shape.entries()) {
      const part = `${name}_${i}`;
      if (typeof d === "number") this.initializers.set(part, Tensor.of("int64", [1], [d]));
      else {
        mustOpen(
          d !== "" && d === input[i],
          () => `size ${i} of Resize node ${node.name} is ${d || "none"}, that of its input ${input[i]}`,
        );
        const attrs = { start: i, end: i + 1 };
        this.before.push({ opType: "Shape", name: part, inputs: [image], outputs: [part], attrs });
      }
      parts.push(part);
    }
    this.before.push({ opType: "Concat", name, inputs: parts, outputs: [name], attrs: { axis: 0 } });
    this.targets.set(key, name);
    return name;
  }

  private openTarget(node: OnnxNode, a: Tensor, b: Tensor): string {
    const [x, y] = [a, b].map((t) => [...t.toFloat64()]);
    const shape = this.openShape(x, y);
    const input = this.shapes.get(node.inputs[0]) ?? [];
    const open = shape.flatMap((d, i) => (typeof d === "string" ? [i] : []));
    // A -1 serves any single size; of several, the others must be the input's own size at the same place.
    const kept = open.length === 1 ? [] : open.filter((i) => shape[i] !== "" && shape[i] === input[i]);
    mustOpen(
      open.length - kept.length <= 1,
      () => `Reshape node ${node.name} has several sizes that depend on the batch size: ${fmt(shape)}`,
    );
    const target = shape.map((d, i) => (typeof d === "number" ? d : kept.includes(i) ? 0 : -1));
    const key = target.join();
    let name = this.targets.get(key);
    if (name === undefined) {
      name = `shape_${target.map((d) => (d === -1 ? "n" : d)).join("x")}`;
      this.targets.set(key, name);
      this.initializers.set(name, Tensor.of("int64", [target.length], target));
    }
    return name;
  }
}

function mustOpen(condition: unknown, problem: () => string): asserts condition {
  if (!condition)
    throw new RepmlpError(
      "export/batch",
      `export: the batch size cannot be left open: ${problem()}. Export with a fixed batch size.`,
      "model",
    );
}

/** Tensors are compared by value; what is read from elsewhere must be the same thing under the same name. */
function sameConstant(nameA: string, a: TensorSource, nameB: string, b: TensorSource): boolean {
  if (a === b) return true;
  if (a.dtype !== b.dtype || !sameShape(a.shape, b.shape)) return false;
  if (!(a instanceof Tensor) || !(b instanceof Tensor)) return nameA === nameB;
  return a.size === b.size && a.data.every((v: number | bigint, i: number) => Object.is(v, b.data[i]));
}

const sameAttributes = (a: OnnxNode["attrs"], b: OnnxNode["attrs"]): boolean =>
  JSON.stringify(a, plain) === JSON.stringify(b, plain);

/** Big integers and non-finite numbers have no place in JSON. */
const plain = (_: string, value: AttributeValue): unknown =>
  typeof value === "bigint" || (typeof value === "number" && !Number.isFinite(value)) ? `${value}` : value;
