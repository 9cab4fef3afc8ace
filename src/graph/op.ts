import type { DType, Shape, Tensor, TensorSource } from "../tensor/index.ts";
import type { Emitter, Handle } from "./emitter.ts";
import type { Layout } from "./layout.ts";

export interface TensorType {
  readonly dtype: DType;
  readonly shape: Shape;
}

/** One application of an op. Immutable; a graph is whatever is reachable from the values one holds. */
export interface Node {
  readonly op: OpDef;
  readonly inputs: readonly Value[];
  readonly attrs: unknown;
  readonly outputs: readonly Value[];
  /** Path of the layer that made the node, e.g. `stage1.0.conv1`; empty outside a module. */
  readonly path: string;
  /** Increases in order of creation, so that sorting by it is a topological order. */
  readonly id: number;
}

/** A symbolic tensor: one output of one node. */
export class Value {
  constructor(
    readonly node: Node,
    readonly index: number,
    readonly type: TensorType,
  ) {}

  get shape(): Shape {
    return this.type.shape;
  }

  get dtype(): DType {
    return this.type.dtype;
  }
}

export interface VjpArgs<A> {
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  readonly attrs: A;
  /** Cotangents, one per output; `undefined` where the loss does not depend on that output. */
  readonly grads: readonly (Value | undefined)[];
  /** The cotangent of the only (or first) output. */
  readonly dy: Value;
}

/** What an op knows: its shape rule, its gradient in terms of ops, and how it is written in ONNX. */
export interface OpDef<A = never> {
  readonly name: string;
  /** Names of the inputs; a last name that starts with `...` takes any number. */
  readonly inputs: readonly string[];
  /** Shape rule: types of the outputs. Throws when the inputs do not fit. */
  infer(inputs: readonly TensorType[], attrs: A): TensorType | readonly TensorType[];
  /**
   * Gradient: cotangents of the inputs, themselves values of the graph and so differentiable again. `undefined` in the
   * list means that nothing flows to that input; `undefined` instead of the function means that the op has no gradient.
   */
  readonly vjp: ((args: VjpArgs<A>) => readonly (Value | undefined)[]) | undefined;
  /** Writes the node in ONNX for the lowering's target. */
  lower(lowering: Lowering, node: Node, attrs: A): Physical | readonly Physical[];
  /** Host evaluation for small constant inputs, where import or folding needs it. */
  readonly fold?: (inputs: readonly Tensor[], attrs: A) => Tensor | undefined;
}

/** An op that can be applied; see {@link defineOp}. */
export interface Op<A> extends OpDef<A> {
  /** Applies the op and returns its only (or first) output. */
  (inputs: readonly Value[], attrs: A): Value;
  /** Applies the op and returns all outputs. */
  all(inputs: readonly Value[], attrs: A): readonly Value[];
}

/** What a parameter leaf stands for. Identity matters: the same reference is the same parameter. */
export interface ParameterRef {
  readonly dtype: DType;
  readonly shape: Shape;
  /** Present values; used where parameters become constants of the graph. */
  source(): TensorSource;
}

/** What the ONNX graph is written for; the fastest and the supported formulations differ. */
export interface Target {
  readonly device: "cpu" | "webgpu";
  /** Layout preferred for activations. */
  readonly layout: Layout;
  /** Parameters are constants of the graph (inference), or 1-D inputs of it (training). */
  readonly parameters: "initializers" | "inputs";
}

/** A lowered value. */
export interface Physical {
  readonly handle: Handle;
  readonly layout: Layout;
}

/** What an op writes itself with: one lowering in progress. */
export interface Lowering {
  readonly target: Target;
  readonly emit: Emitter;
  /** The handle of a lowered value in the wanted layout (default `natural`); converted once where it lies otherwise. */
  read(value: Value, layout?: Layout): Handle;
  /** The layout in which a value was produced. */
  layoutOf(value: Value): Layout;
  /** Layout in which a layout-free op best runs: batch-last as soon as one activation lies so. */
  layoutFor(values: readonly Value[]): Layout;
  /** A number that no other call returns, for nodes that must stay unequal to all others. */
  nextPrivate(): number;
  /** A parameter, input, constant or random leaf. */
  leaf(node: Node): Physical;
}
