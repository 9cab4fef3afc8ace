import { must } from "../errors.ts";
import type { OnnxModel, OnnxNode } from "../onnx/index.ts";
import { sizeOf, Tensor } from "../tensor/index.ts";
import { Emitter, type Handle } from "./emitter.ts";
import { type Layout, toBatchLast, toNatural } from "./layout.ts";
import type { Lowering, Physical, Target } from "./op.ts";
import {
  asConstant,
  asInput,
  asParameter,
  asRandom,
  type Node,
  type ParameterRef,
  reachable,
  type Value,
} from "./value.ts";

/** The targets that the library compiles for. */
export const targets = {
  cpuTraining: { device: "cpu", layout: "batchLast", parameters: "inputs" },
  webgpuTraining: { device: "webgpu", layout: "natural", parameters: "inputs" },
  inference: { device: "cpu", layout: "natural", parameters: "initializers" },
  webgpuInference: { device: "webgpu", layout: "natural", parameters: "initializers" },
} as const satisfies Record<string, Target>;

/** A function of named inputs: what a compiled session computes. */
export interface Graph {
  readonly outputs: Readonly<Record<string, Value>>;
}

export interface LowerOptions {
  readonly target: Target;
  /** Names of parameters and buffers; each must be there when the target keeps parameters as inputs. */
  readonly names?: ReadonlyMap<ParameterRef, string>;
  readonly metadata?: Readonly<Record<string, string>>;
  /** Writes the shape of every intermediate tensor, for viewers. Default: only for inference. */
  readonly valueInfo?: boolean;
  /**
   * An input, never empty, that all shapes are made to depend on, so that the runtime cannot plan its memory and frees
   * each tensor after its last use: {@link Emitter.hideShapes}. Default none.
   */
  readonly shapesFrom?: string;
  /** Outputs that are written in the layout in which they are made; see {@link Lowered.layouts}. Default none. */
  readonly asTheyLie?: ReadonlySet<string>;
}

/** A random input of a lowered graph, to be fed by the host at every run. */
export interface RandomInput {
  readonly name: string;
  readonly node: Node;
}

export interface Lowered {
  readonly model: OnnxModel;
  readonly randoms: readonly RandomInput[];
  /** Parameters that became inputs, by name. */
  readonly parameters: ReadonlyMap<string, ParameterRef>;
  /** Layouts of the outputs. */
  readonly layouts: ReadonlyMap<string, Layout>;
}

export const OPSET = 17;

/** Constants up to this many values are folded on the host; larger ones are left to the runtime. */
const FOLD_LIMIT = 4096;

/** The state of one lowering: what ops use to write themselves. */
export class GraphLowering implements Lowering {
  readonly emit = new Emitter();
  readonly inputs: Handle[] = [];
  readonly randoms: RandomInput[] = [];
  readonly parameters = new Map<string, ParameterRef>();
  private readonly physical = new Map<Value, Physical[]>();
  private readonly owners = new Map<string, Node | ParameterRef>();
  private readonly folded = new Map<Value, Tensor>();

  constructor(
    readonly target: Target,
    private readonly names: ReadonlyMap<ParameterRef, string>,
  ) {}

  read(value: Value, layout: Layout = "natural"): Handle {
    const forms = this.physical.get(value);
    must(forms, "internal/lower", () => `internal: ${value.node.op.name} was read before it was lowered`, "model");
    const found = forms.find((p) => p.layout === layout);
    if (found) return found.handle;
    const rank = value.shape.length;
    if (rank < 2) return forms[0].handle;
    const perm = layout === "batchLast" ? toBatchLast(rank) : toNatural(rank);
    const handle = this.emit.transpose(forms[0].handle, perm);
    forms.push({ handle, layout });
    return handle;
  }

  layoutOf(value: Value): Layout {
    return this.physical.get(value)?.[0].layout ?? "natural";
  }

  layoutFor(values: readonly Value[]): Layout {
    return values.some((v) => v.shape.length >= 2 && this.layoutOf(v) === "batchLast") ? "batchLast" : "natural";
  }

  private privates = 0;

  nextPrivate(): number {
    return ++this.privates;
  }

  private input(name: string, shape: readonly number[], dtype: Handle["dtype"]): Handle {
    const handle = { name, shape, dtype };
    this.inputs.push(handle);
    return handle;
  }

  /** Notes whose name it is; two tensors of one name would overwrite each other. */
  private claim(name: string, owner: Node | ParameterRef): void {
    const known = this.owners.get(name) ?? owner;
    must(
      known === owner,
      "lower/names",
      () => `lower: two inputs or parameters are named ${name}. Rename one.`,
      "model",
    );
    this.owners.set(name, owner);
  }

  leaf(node: Node): Physical {
    const value = node.outputs[0];
    const { dtype, shape } = value.type;
    const asIs = (handle: Handle): Physical => ({ handle, layout: "natural" });
    const constant = asConstant(value);
    if (constant) return asIs(this.emit.constant(constant.source));
    const input = asInput(value);
    if (input) {
      this.claim(input.name, node);
      const { layout = "natural" } = input;
      const physical = layout === "natural" ? shape : toBatchLast(shape.length).map((axis) => shape[axis]);
      return { handle: this.input(input.name, physical, dtype), layout };
    }
    const random = asRandom(value);
    if (random) {
      const name = `random:${this.randoms.length}`;
      this.claim(name, node);
      this.randoms.push({ name, node });
      return asIs(this.input(name, shape, dtype));
    }
    const { ref } = asParameter(value)!;
    const name = this.names.get(ref);
    if (name) this.claim(name, ref);
    if (this.target.parameters === "initializers") return asIs(this.emit.constant(ref.source(), name));
    must(
      name,
      "lower/parameter",
      () =>
        `lower: a parameter of shape [${shape.join(", ")}] is used in the graph but is not part of the model. Assign it to a field of a module.`,
      "model",
    );
    // Parameters are 1-D at the boundary: trailing unit dimensions next to a scalar operand are pathologically slow.
    if (!this.parameters.has(name)) {
      this.parameters.set(name, ref);
      this.input(name, [sizeOf(shape)], dtype);
    }
    return asIs(this.emit.reshape({ name, shape: [sizeOf(shape)], dtype }, shape));
  }

  /** The value of a node whose inputs are all small constants, computed on the host. */
  private fold(node: Node): Tensor | undefined {
    const [value] = node.outputs;
    if (sizeOf(value.shape) > FOLD_LIMIT) return undefined;
    const leaf = asConstant(value)?.source;
    const inputs = node.inputs.map((v) => this.folded.get(v));
    const known = inputs.length && inputs.every((t) => t !== undefined) && node.op.fold;
    const tensor = known ? known(inputs as Tensor[], node.attrs as never) : leaf instanceof Tensor ? leaf : undefined;
    if (!tensor) return undefined;
    this.folded.set(value, tensor);
    return tensor;
  }

  lower(node: Node): void {
    const constant = this.fold(node);
    if (constant) {
      this.physical.set(node.outputs[0], [{ handle: this.emit.constant(constant), layout: "natural" }]);
      return;
    }
    this.emit.scope = `${node.path ? `${node.path}/` : ""}`;
    const result = node.op.lower(this, node, node.attrs as never);
    const list: readonly Physical[] = "handle" in result ? [result] : result;
    for (const [i, value] of node.outputs.entries()) this.physical.set(value, [list[i]]);
  }
}

/**
 * Writes a graph as an ONNX model for a target. Only what the outputs need is written (dead code falls away), equal
 * nodes are written once.
 */
export function lower(
  graph: Graph,
  { target, names = new Map(), metadata, valueInfo, shapesFrom, asTheyLie = new Set() }: LowerOptions,
): Lowered {
  const lowering = new GraphLowering(target, names);
  const outputs = Object.entries(graph.outputs);
  const graphNodes = reachable(outputs.map(([, v]) => v));
  const { emit } = lowering;
  for (const name of givenNames(graphNodes, names)) emit.reserved.add(name);
  for (const [name] of outputs) {
    must(
      !emit.reserved.has(name),
      "lower/names",
      () => `lower: output ${name} has the name of an input or parameter. Rename one.`,
      "model",
    );
    emit.reserved.add(name);
  }
  const source = graphNodes.find(({ outputs: [value] }) => shapesFrom && asInput(value)?.name === shapesFrom);
  if (source) {
    lowering.lower(source);
    emit.hideShapes(lowering.read(source.outputs[0]));
  }
  for (const node of graphNodes) if (node !== source) lowering.lower(node);
  emit.scope = "";
  const taken = new Map<string, string>();
  const produced = new Set(emit.nodes.flatMap((n) => n.outputs));
  const layoutOf = (name: string, value: Value): Layout => (asTheyLie.has(name) ? lowering.layoutOf(value) : "natural");
  const infos = outputs.map(([name, value]) => {
    const handle = lowering.read(value, layoutOf(name, value));
    // A tensor that is also an input, a constant or another output needs a node of its own.
    const own = produced.has(handle.name) && !taken.has(handle.name);
    const source = own ? handle : emit.nodeAll("Identity", [handle], {}, [handle], { unique: true })[0];
    taken.set(source.name, name);
    return { name, dtype: handle.dtype, shape: handle.shape };
  });
  const rename = (name: string): string => taken.get(name) ?? name;
  const live = liveNodes(emit.nodes, [...taken.keys()]);
  const nodes = live.map((n) => ({ ...n, inputs: n.inputs.map(rename), outputs: n.outputs.map(rename) }));
  const used = new Set(nodes.flatMap((n) => n.inputs));
  const made = new Set(nodes.flatMap((n) => n.outputs));
  const withInfo = valueInfo ?? target.parameters === "initializers";
  return {
    model: {
      nodes,
      inputs: lowering.inputs,
      outputs: infos,
      initializers: new Map([...emit.initializers].filter(([name]) => used.has(name))),
      valueInfo: withInfo ? emit.handles.filter((h) => !taken.has(h.name) && made.has(h.name)) : [],
      opset: OPSET,
      metadata,
    },
    randoms: lowering.randoms,
    parameters: lowering.parameters,
    layouts: new Map(outputs.map(([name, value]) => [name, layoutOf(name, value)])),
  };
}

/** Names that inputs and parameters bring along. */
const givenNames = (nodes: readonly Node[], names: ReadonlyMap<ParameterRef, string>): string[] =>
  nodes.flatMap(({ outputs: [value] }) => {
    const ref = asParameter(value)?.ref;
    return asInput(value)?.name ?? (ref && names.get(ref)) ?? [];
  });

/** The nodes that the outputs need, in order. */
function liveNodes(nodes: readonly OnnxNode[], outputs: readonly string[]): OnnxNode[] {
  const needed = new Set(outputs);
  return nodes
    .toReversed()
    .filter((node) => {
      const live = node.outputs.some((name) => needed.has(name));
      if (live) for (const name of node.inputs) needed.add(name);
      return live;
    })
    .reverse();
}
