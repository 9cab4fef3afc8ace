import { fmt, must } from "../../errors.ts";
import type { OnnxModel, OnnxNode } from "../../onnx/index.ts";
import { isFloating, type Shape, sizeOf, Tensor, type TensorSource } from "../../tensor/index.ts";
import { byCodePoint } from "../../text.ts";
import type { Dims } from "./dims.ts";
import { canFold, FOLD_LIMIT, fold, readsSizes } from "./fold.ts";
import { inferred, type ShapeContext, sizesOf } from "./shapes.ts";

/** What may be computed of one file's constants, in values: small files could ask for it node by node. */
const FOLDING_BUDGET = 1 << 23;

/** Lists of numbers up to so many values are read as sizes and axes. */
const LIST_LIMIT = 64;

/** Numbers that one value may hold: a few bytes of a file can ask for any size, and more than this is no activation. */
const VALUE_LIMIT = 2 ** 30;

/** Operator sets whose meanings the rules know. */
const OPSETS = [7, 24] as const;

/** Values that a rule may read at a glance: constants, sizes, who makes a value and who reads it. */
export class GraphView {
  readonly opset: number;
  /** Floating values of all initializers together. */
  readonly weights: number;
  private readonly producers = new Map<string, OnnxNode>();
  private readonly readers = new Map<string, Set<OnnxNode>>();
  private readonly captured = new Set<string>();
  private readonly outputs: ReadonlySet<string>;
  private readonly constants = new Map<string, TensorSource>();
  /** Constants that were computed here. */
  private readonly folded = new Set<string>();
  private readonly shapes = new Map<string, Dims>();
  private readonly lists = new Map<string, Dims>();
  /** Longest way of a value from the inputs, by which nodes are ordered whatever their order in the file. */
  private readonly levels = new Map<string, number>();
  private readonly initializers: Map<string, TensorSource>;
  private readonly names = new Set<string>();
  private budget = FOLDING_BUDGET;

  /**
   * @param formulas  constants that stay computed by the nodes of the file, although they could be stored
   * @throws RepmlpError of kind `file`: `convert-onnx/opset`, `convert-onnx/order` for nodes in a circle or two that make
   *   one value, `convert-onnx/size` for a value of more than a billion numbers
   */
  constructor(
    readonly model: OnnxModel,
    formulas: ReadonlySet<string> = new Set(),
  ) {
    const { opset, nodes, inputs, outputs, kept } = model;
    const [first, last] = OPSETS;
    must(
      opset >= first && opset <= last,
      "convert-onnx/opset",
      () =>
        `convert: operator set ${opset} is not known here, only ${first} to ${last}. Convert the model to one of them.`,
      "file",
    );
    this.opset = opset;
    this.initializers = new Map(model.initializers);
    this.outputs = new Set(kept?.outputs ?? outputs.map(({ name }) => name));
    let weights = 0;
    for (const [name, source] of model.initializers) {
      this.names.add(name);
      this.shapes.set(name, source.shape);
      if (isFloating(source.dtype)) weights += sizeOf(source.shape);
      // Whoever runs the model may feed another value.
      if (!kept?.fed.has(name)) this.constants.set(name, source);
    }
    this.weights = weights;
    for (const { name, shape } of inputs) {
      this.names.add(name);
      if (shape)
        this.shapes.set(
          name,
          shape.map((d) => (typeof d === "number" ? d : undefined)),
        );
    }
    for (const [name] of kept?.inputs ?? []) this.names.add(name);
    for (const node of nodes) this.index(node);
    const stated = new Map((model.valueInfo ?? []).map(({ name, shape }) => [name, shape] as const));
    const sorted = this.sorted();
    for (const node of sorted) this.learn(node, stated);
    this.store(sorted, formulas);
  }

  private index(node: OnnxNode): void {
    for (const name of node.outputs) {
      if (name === "") continue;
      must(
        !this.producers.has(name) && !this.initializers.has(name),
        "convert-onnx/order",
        () => `convert: two nodes make the value "${name}". The file is damaged.`,
        "file",
      );
      this.producers.set(name, node);
      this.names.add(name);
    }
    for (const name of node.inputs) this.read(name, node);
    for (const name of this.model.kept?.captured.get(node) ?? []) {
      this.read(name, node);
      this.captured.add(name);
    }
  }

  private read(name: string, node: OnnxNode): void {
    const readers = this.readers.get(name);
    if (readers) readers.add(node);
    else if (name !== "") this.readers.set(name, new Set([node]));
  }

  /** All nodes, inputs first. The order follows from the graph alone, not from that in the file. */
  sorted(): OnnxNode[] {
    const waiting = new Map<OnnxNode, number>();
    const ready: OnnxNode[] = [];
    const nodes = new Set(this.producers.values());
    for (const node of nodes) {
      const needed = new Set([...node.inputs, ...(this.model.kept?.captured.get(node) ?? [])]);
      const count = [...needed].filter((name) => this.producers.has(name)).length;
      waiting.set(node, count);
      if (!count) ready.push(node);
    }
    const sorted: OnnxNode[] = [];
    for (let next = ready.pop(); next; next = ready.pop()) {
      sorted.push(next);
      const level = 1 + next.inputs.reduce((n, name) => Math.max(n, this.levels.get(name) ?? 0), 0);
      for (const name of next.outputs) {
        this.levels.set(name, level);
        for (const reader of this.readers.get(name) ?? []) {
          const left = waiting.get(reader)! - 1;
          waiting.set(reader, left);
          if (left === 0) ready.push(reader);
        }
      }
    }
    must(
      sorted.length === nodes.size,
      "convert-onnx/order",
      () => "convert: nodes depend on each other in a circle. The file is damaged.",
      "file",
    );
    return sorted
      .map((node) => ({ node, level: this.level(node.outputs[0]), name: nameOf(node) }))
      .sort((a, b) => a.level - b.level || byCodePoint(a.name, b.name))
      .map(({ node }) => node);
  }

  level(value: string): number {
    return this.levels.get(value) ?? 0;
  }

  /** What follows about a node's output from what is known of its inputs. */
  private learn(node: OnnxNode, stated: ReadonlyMap<string, readonly (string | number)[] | undefined>): void {
    const context = this.contextOf(node);
    const [output] = node.outputs;
    const shape = orUnknown(() => inferred(context));
    if (shape) this.shapes.set(output, shape);
    else
      for (const name of node.outputs) {
        const given = stated.get(name);
        if (given)
          this.shapes.set(
            name,
            given.map((d) => (typeof d === "number" ? d : undefined)),
          );
      }
    this.mustFit(node);
    const list = orUnknown(() => sizesOf(context));
    if (list && list.length <= LIST_LIMIT) this.lists.set(output, list);
    if (node.opType === "Constant" && !node.domain) this.learnConstant(node);
    else if (canFold(node)) this.learnFolded(node, context.dims);
  }

  private contextOf(node: OnnxNode): ShapeContext {
    return {
      node,
      opset: this.opset,
      dims: node.inputs.map((name) => this.shapeOf(name)),
      numbers: (i) => this.listOf(node.inputs[i] ?? ""),
    };
  }

  private mustFit(node: OnnxNode): void {
    const size = (this.shapes.get(node.outputs[0]) ?? []).reduce<number>((n, d) => n * (d ?? 1), 1);
    must(
      size <= VALUE_LIMIT,
      "convert-onnx/size",
      () =>
        `convert: ${describe(node)} would make ${size.toExponential(1)} numbers, more than ${VALUE_LIMIT}. The file is damaged, ` +
        "or its sizes are not meant to be run here: export it with smaller ones.",
      "file",
    );
  }

  private learnConstant({ attrs, outputs: [output] }: OnnxNode): void {
    const { value, value_float, value_floats, value_int, value_ints } = attrs;
    const floats = (value_floats as { floats?: readonly number[] } | undefined)?.floats;
    const float = (value_float as { float?: number } | undefined)?.float;
    const tensor =
      value instanceof Tensor
        ? value
        : float !== undefined
          ? Tensor.float32([], [float])
          : floats
            ? Tensor.float32([floats.length], floats)
            : typeof value_int === "number"
              ? Tensor.of("int64", [], [value_int])
              : Array.isArray(value_ints) && value_ints.every((v) => typeof v === "number")
                ? Tensor.of("int64", [value_ints.length], value_ints)
                : undefined;
    if (!tensor) return;
    this.constants.set(output, tensor);
    this.shapes.set(output, tensor.shape);
  }

  private learnFolded(node: OnnxNode, dims: readonly (Dims | undefined)[]): void {
    const sources = readsSizes(node)
      ? []
      : node.inputs.map((name) => (name === "" ? undefined : this.constants.get(name)));
    if (!readsSizes(node) && node.inputs.some((name, i) => name !== "" && !sources[i])) return;
    const size = sources.reduce((n, s) => n + (s ? sizeOf(s.shape) : 0), 0);
    if (size > FOLD_LIMIT || this.budget < size) return;
    this.budget -= size;
    const made = orUnknown(() => fold({ node, opset: this.opset, inputs: sources.map((s) => s?.readSync()), dims }));
    if (!made) return;
    this.budget -= made.size;
    this.constants.set(node.outputs[0], made);
    this.folded.add(node.outputs[0]);
    this.shapes.set(node.outputs[0], made.shape);
  }

  producer(value: string): OnnxNode | undefined {
    return this.producers.get(value);
  }

  /** The nodes that read a value, those whose sub-graphs do among them. */
  consumers(value: string): ReadonlySet<OnnxNode> {
    return this.readers.get(value) ?? new Set();
  }

  isOutput(value: string): boolean {
    return this.outputs.has(value);
  }

  /** Sizes of a value, as far as they are known. */
  shapeOf(value: string): Dims | undefined {
    return this.shapes.get(value);
  }

  /** A value that is the same whatever is fed. */
  constant(value: string): TensorSource | undefined {
    return this.constants.get(value);
  }

  /** Whether a constant was computed here of others. */
  isFolded(value: string): boolean {
    return this.folded.has(value);
  }

  /** Few numbers, such as axes, pads or sizes; open ones are `undefined`. */
  listOf(value: string): Dims | undefined {
    const source = this.constants.get(value);
    if (!source) return this.lists.get(value);
    return sizeOf(source.shape) <= LIST_LIMIT ? [...source.readSync().toFloat64()] : undefined;
  }

  /** A name that no value has. */
  uniqueName(base: string): string {
    let name = base;
    for (let i = 1; this.names.has(name); i++) name = `${base}_${i}`;
    return name;
  }

  /** Takes nodes out and puts others in, which make what is still needed of them; what nothing reads any more goes. */
  replace(removed: Iterable<OnnxNode>, added: readonly OnnxNode[], constants: ReadonlyMap<string, TensorSource>): void {
    const gone = [...removed];
    const level = Math.max(...gone.map((node) => this.level(node.outputs[0])));
    for (const node of gone) this.remove(node);
    for (const [name, source] of constants) {
      this.names.add(name);
      this.initializers.set(name, source);
      this.constants.set(name, source);
      this.shapes.set(name, source.shape);
    }
    for (const node of added) {
      this.index(node);
      for (const name of node.outputs) this.levels.set(name, level);
      const [output] = node.outputs;
      const shape = this.shapes.get(output) ?? orUnknown(() => inferred(this.contextOf(node)));
      if (shape) this.shapes.set(output, shape);
    }
    for (const node of gone) for (const name of node.inputs) this.sweep(name);
  }

  private remove(node: OnnxNode): void {
    for (const name of node.outputs) this.producers.delete(name);
    for (const name of node.inputs) this.readers.get(name)?.delete(node);
  }

  /** Removes what makes a value that nothing reads: constants, shape arithmetic, branches. */
  private sweep(value: string): void {
    const pending = [value];
    for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
      if (this.readers.get(name)?.size || this.outputs.has(name)) continue;
      if (this.initializers.delete(name)) this.names.delete(name);
      const node = this.producers.get(name);
      if (!node || node.outputs.some((o) => this.readers.get(o)?.size || this.outputs.has(o))) continue;
      this.remove(node);
      pending.push(...node.inputs);
    }
  }

  /** Puts constants that were computed here in place of the nodes that compute them. */
  private store(sorted: readonly OnnxNode[], formulas: ReadonlySet<string>): void {
    const gone = sorted.filter(
      ({ outputs: [name] }) => this.folded.has(name) && !formulas.has(name) && !this.outputs.has(name),
    );
    for (const node of gone) this.remove(node);
    for (const { outputs } of gone)
      if (this.readers.get(outputs[0])?.size) this.initializers.set(outputs[0], this.constants.get(outputs[0])!);
    for (const { inputs } of gone) for (const name of inputs) this.sweep(name);
  }

  /**
   * Stored constants of more than so many numbers for which the file has a formula, and those that it is made of: storing
   * them would make the file larger.
   */
  largeFormulas(most: number): Set<string> {
    const makers = new Map(this.model.nodes.map((node) => [node.outputs[0], node]));
    const isLarge = (name: string): boolean => this.folded.has(name) && sizeOf(this.constants.get(name)!.shape) > most;
    const large = new Set<string>();
    const pending = [...this.initializers.keys()].filter((name) => isLarge(name));
    for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
      if (large.has(name)) continue;
      large.add(name);
      pending.push(...makers.get(name)!.inputs.filter(isLarge));
    }
    return large;
  }

  /** The model as it is now: nodes in the order of the file, new ones where the last of those stood that they replace. */
  result(order: ReadonlyMap<OnnxNode, number>): OnnxModel {
    const left = new Set(this.producers.values());
    // A node without outputs is of no use, but it is not ours.
    for (const node of this.model.nodes) if (!node.outputs.some((name) => name !== "")) left.add(node);
    const nodes = arranged(
      [...left].sort((a, b) => (order.get(a) ?? 0) - (order.get(b) ?? 0)),
      this.model,
    );
    const made = new Set(nodes.flatMap((node) => node.outputs));
    return {
      ...this.model,
      nodes,
      initializers: this.initializers,
      ...(this.model.valueInfo && { valueInfo: this.model.valueInfo.filter(({ name }) => made.has(name)) }),
    };
  }
}

/** A model as it is for inputs of some sizes, of which what the file says about values in between may be no longer true. */
export const withSizes = (model: OnnxModel, inputs: Readonly<Record<string, Shape>>): OnnxModel => ({
  ...model,
  inputs: model.inputs.map((value) => (inputs[value.name] ? { ...value, shape: inputs[value.name] } : value)),
  valueInfo: [],
});

/** Name of a node, or of its first output where it has none. */
export const nameOf = ({ name, outputs }: OnnxNode): string => name || outputs[0] || "";

/** How a node is named in messages. */
export const describe = (node: OnnxNode): string =>
  `${node.domain ? `${node.domain}.` : ""}${node.opType} ${nameOf(node)}`;

/** Damaged attributes make a size unknown; the runtime says what is wrong with them. */
function orUnknown<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

/** Nodes in an order in which each comes after those that it reads, otherwise as they are. */
function arranged(nodes: readonly OnnxNode[], { kept }: OnnxModel): OnnxNode[] {
  const makers = new Map(nodes.flatMap((node) => node.outputs.map((name) => [name, node] as const)));
  // Stands for inputs and outputs that are left out.
  makers.delete("");
  const placed = new Set<OnnxNode>();
  const sorted: OnnxNode[] = [];
  for (const root of nodes) {
    const open: OnnxNode[] = [root];
    while (open.length) {
      const node = open.at(-1)!;
      const missing = placed.has(node)
        ? undefined
        : [...node.inputs, ...(kept?.captured.get(node) ?? [])]
            .map((name) => makers.get(name))
            .find((m) => m && m !== node && !placed.has(m));
      if (missing) {
        open.push(missing);
        continue;
      }
      open.pop();
      if (placed.has(node)) continue;
      placed.add(node);
      sorted.push(node);
    }
  }
  return sorted;
}

/** For messages. */
export const fmtDims = (dims: Dims | undefined): string => (dims ? fmt(dims.map((d) => d ?? "?")) : "of unknown shape");
