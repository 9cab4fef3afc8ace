import { fmt, must } from "../errors.ts";
import { type ParameterRef, parameter, type Value } from "../graph/index.ts";
import {
  type DType,
  type Rng,
  rng,
  type Shape,
  sameShape,
  sizeOf,
  Tensor,
  type TensorSource,
} from "../tensor/index.ts";

/** Fills a new parameter: values in row-major order for a shape, from a random stream. */
export type Initializer = (shape: Shape, random: Rng) => ArrayLike<number>;

export interface ParameterOptions {
  readonly init: Initializer;
  /** Default `float32`. */
  readonly dtype?: DType;
}

/**
 * A tensor that belongs to a module. Its values come from an initializer, a checkpoint, or (in a merged module) from
 * other parameters; nothing is computed before someone asks, so that a network can be built without filling it.
 */
export class Parameter implements ParameterRef {
  readonly dtype: DType;
  /** Whether an optimizer may change it. */
  readonly requiresGrad: boolean = true;
  private readonly init: Initializer;
  private current: TensorSource | undefined;
  private leaf: Value | undefined;

  constructor(
    readonly shape: Shape,
    { init, dtype = "float32" }: ParameterOptions,
  ) {
    must(
      shape.every((d) => Number.isInteger(d) && d > 0),
      "parameter/shape",
      () => `parameter: sizes must be positive integers, got ${fmt(shape)}`,
    );
    this.init = init;
    this.dtype = dtype;
  }

  /** A parameter whose values are those of a source (a file range, a merge), read when needed. */
  static from(source: TensorSource): Parameter {
    const made = new Parameter(source.shape, { init: () => [], dtype: source.dtype });
    made.current = source;
    return made;
  }

  /** Whether values are there, as opposed to being still to be initialized. */
  get isSet(): boolean {
    return this.current !== undefined;
  }

  /** Present values. Throws `parameter/unset` before they were initialized or loaded. */
  source(): TensorSource {
    must(
      this.current,
      "parameter/unset",
      () =>
        `parameter: a parameter of shape ${fmt(this.shape)} has no values yet. ` +
        "Call model.initialize(seed), or load a state dict.",
      "model",
    );
    return this.current;
  }

  /** Present values on the host. */
  get data(): Tensor {
    return this.source().readSync();
  }

  /** Replaces the values; shape and dtype stay. */
  set(source: TensorSource): void {
    must(
      sameShape(source.shape, this.shape),
      "parameter/set",
      () => `parameter: expected shape ${fmt(this.shape)}, got ${fmt(source.shape)}`,
    );
    this.current = source.dtype === this.dtype ? source : source.readSync().cast(this.dtype);
  }

  /** Fills in initial values from the stream of `seed` and the parameter's path. */
  initialize(seed: number, path: string): void {
    const values = this.init(this.shape, rng(seed, path));
    must(
      values.length === sizeOf(this.shape),
      "parameter/init",
      () => `parameter: the initializer of ${path} gave ${values.length} values for shape ${fmt(this.shape)}`,
    );
    this.current = Tensor.of(this.dtype, this.shape, values);
  }

  /** The parameter in a graph. */
  get value(): Value {
    this.leaf ??= parameter(this);
    return this.leaf;
  }

  /** A copy that shares the present values and will not see later changes; `trainable` sets `requiresGrad`. */
  copy({ trainable = this.requiresGrad }: { readonly trainable?: boolean } = {}): this {
    const made = Object.assign(Object.create(Object.getPrototypeOf(this)), this) as this;
    Object.assign(made, { leaf: undefined, requiresGrad: trainable });
    return made;
  }

  /** One of the same kind and of another shape, with values or still without. */
  resized(to: TensorSource | Shape): this {
    const made = this.copy();
    if (!("read" in to)) return Object.assign(made, { shape: to, current: undefined });
    const current = to.dtype === this.dtype ? to : to.readSync().cast(this.dtype);
    return Object.assign(made, { shape: to.shape, current });
  }

  /** The same parameter in another dtype. */
  to(dtype: DType): this {
    const made = this.copy();
    const { current } = this;
    Object.assign(made, {
      dtype,
      current: current && {
        dtype,
        shape: current.shape,
        read: async () => (await current.read()).cast(dtype),
        readSync: () => current.readSync().cast(dtype),
      },
    });
    return made;
  }
}

/** State that is saved but not trained: running statistics. */
export class Buffer extends Parameter {
  override readonly requiresGrad = false;
}

/** A counter of training batches (`num_batches_tracked`), kept by the host. */
export class Counter extends Buffer {
  constructor() {
    super([], { init: () => [0], dtype: "int64" });
  }
}
