import { must } from "../errors.ts";
import { type Pair, pair } from "../graph/index.ts";
import type { Parameter } from "../nn/index.ts";
import {
  type DType,
  dtypes,
  type Shape,
  sameShape,
  sizeOf,
  type Tensor,
  type TensorSource,
  tensorBytes,
  tensorFromBytes,
} from "../tensor/index.ts";
import {
  type Affine,
  asMatrix,
  columnsPerInput,
  composition,
  compositionBefore,
  concatenation,
  dilation,
  fcShape,
  identityShape,
  type KernelAlgebra,
  mustBeEqual,
  mustFitOutputs,
  type Norm,
  type Placement,
  padding,
  poolShape,
} from "./algebra.ts";
import { fcRows, type Numbers, numbersOf, rounded, scaledColumns, scaledRows, scaleRun } from "./rows.ts";

/** Writes the rows from `first` on, as many as fill `out`, each value computed in float64 and rounded once. */
type WriteRows = (first: number, out: Numbers) => void;

/** What a tensor needs of a parameter: for each row only that row, or more. */
interface Need {
  readonly leaf: HostTensor;
  readonly byRow: boolean;
}

interface Definition {
  readonly shape: Shape;
  /** In order of importance: the first one's dtype is that of the result. */
  readonly needs: readonly Need[];
  readonly prepare: (run: Evaluation) => WriteRows;
  /** Values that are there from outside. */
  readonly source?: TensorSource;
  /** Of `scaleOutputs` of a parameter, and of `convToFc`: see {@link HostAlgebra.add}. */
  readonly scaled?: { readonly weight: HostTensor; readonly scale: HostTensor };
  readonly connected?: { readonly kernel: HostTensor; readonly size: Pair };
}

/**
 * A tensor of the host's kernel algebra: how it follows from parameters. Its values are computed when they are read, some
 * rows (outputs) at a time.
 */
export class HostTensor {
  constructor(readonly definition: Definition) {}

  get shape(): Shape {
    return this.definition.shape;
  }

  /**
   * As values to be read; nothing is kept. Large weights can be read in pieces where their parameters can.
   *
   * @param type  element type; default that of the first parameter
   */
  source(type?: DType): TensorSource {
    const { shape, needs } = this.definition;
    must(needs.length, "internal/merge", () => "internal: a merged tensor depends on no parameter");
    const leaves = [...new Set(needs.map((n) => n.leaf))];
    const sourceOf = (leaf: HostTensor): TensorSource => leaf.definition.source as TensorSource;
    const dtype = type ?? sourceOf(needs[0].leaf).dtype;
    const compute = (tensors: readonly Tensor[]): Tensor =>
      new Evaluation(new Map(leaves.map((leaf, i) => [leaf, numbersOf(tensors[i])]))).round(this, dtype);
    const whole = {
      dtype,
      shape,
      read: async () => compute(await Promise.all(leaves.map((leaf) => sourceOf(leaf).read()))),
      readSync: () => compute(leaves.map((leaf) => sourceOf(leaf).readSync())),
    };
    const streamed = leaves.filter((leaf) => needs.every((n) => n.leaf !== leaf || n.byRow));
    const spine = streamed.find((leaf) => leaf.shape.length > 1);
    if (!spine) return whole;
    const others = leaves.filter((leaf) => leaf !== spine);
    return { ...whole, pieces: () => pieces(this, whole, { leaf: spine, source: sourceOf(spine) }, others, sourceOf) };
  }
}

/** The rows of a tensor while those of one parameter come in from where they lie. */
async function* pieces(
  tensor: HostTensor,
  whole: TensorSource,
  { leaf, source }: { readonly leaf: HostTensor; readonly source: TensorSource },
  others: readonly HostTensor[],
  sourceOf: (leaf: HostTensor) => TensorSource,
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
  if (!source.pieces) {
    yield tensorBytes(await whole.read());
    return;
  }
  const tensors = await Promise.all(others.map((t) => sourceOf(t).read()));
  const run = new Evaluation(new Map(others.map((t, i) => [t, numbersOf(tensors[i])])));
  const width = dtypes[source.dtype].bytes;
  const [, columns] = asMatrix(leaf.shape);
  let first = 0;
  let memory: Tensor["data"] | undefined;
  for await (const bytes of source.pieces(columns * width)) {
    const count = bytes.length / width / columns;
    run.slide(leaf, numbersOf(tensorFromBytes(source.dtype, [count, columns], bytes)), first);
    const made = run.round(tensor, whole.dtype, first, count, memory);
    memory ??= made.data;
    yield tensorBytes(made);
    first += count;
  }
}

/** Values per step: as many as stay in a processor's cache. */
const STEP = 1 << 14;

/** One computation: the parameters' values, and what was computed of them so far. */
class Evaluation {
  private readonly writers = new Map<HostTensor, WriteRows>();
  private readonly computed = new Map<HostTensor, Numbers>();
  private readonly scratch = new Map<HostTensor, Float64Array>();
  private readonly starts = new Map<HostTensor, number>();

  /** @param values  all values of the parameters by leaf, except of one that comes in pieces */
  constructor(private readonly values: Map<HostTensor, Numbers>) {}

  /** Moves the window on a parameter of which not all rows are there. */
  slide(leaf: HostTensor, rows: Numbers, first: number): void {
    this.values.set(leaf, rows);
    this.starts.set(leaf, first);
  }

  /** Some rows of a tensor: a view, valid until others of the same tensor are asked for. */
  rows(t: HostTensor, first: number, count: number): Numbers {
    const [, columns] = asMatrix(t.shape);
    const known = this.values.get(t) ?? this.computed.get(t);
    if (known) {
      const start = (first - (this.starts.get(t) ?? 0)) * columns;
      return known.subarray(start, start + count * columns);
    }
    const size = count * columns;
    let memory = this.scratch.get(t);
    if (!memory || memory.length < size) {
      memory = new Float64Array(size);
      this.scratch.set(t, memory);
    }
    const out = memory.subarray(0, size);
    this.writer(t)(first, out);
    return out;
  }

  /** All values of a tensor; computed once. */
  all(t: HostTensor): Numbers {
    const known = this.values.get(t) ?? this.computed.get(t);
    if (known) return known;
    const out = new Float64Array(sizeOf(t.shape));
    this.fill(t, 0, out);
    this.computed.set(t, out);
    return out;
  }

  /** Rows of a tensor (default all) in a dtype; in `memory` where that fits. */
  round(t: HostTensor, dtype: DType, first = 0, count = t.shape[0], memory?: Tensor["data"]): Tensor {
    const shape = [count, ...t.shape.slice(1)];
    return rounded(dtype, shape, (out) => this.fill(t, first, out), memory);
  }

  /** Computes what a tensor's rows need, so that no other rows are asked for while some are in use. */
  ready(t: HostTensor): void {
    if (!this.values.has(t) && !this.computed.has(t)) this.writer(t);
  }

  private fill(t: HostTensor, first: number, out: Numbers): void {
    const [, columns] = asMatrix(t.shape);
    const write = this.writer(t);
    const step = Math.max(1, Math.floor(STEP / columns)) * columns;
    for (let start = 0; start < out.length; start += step)
      write(first + start / columns, out.subarray(start, Math.min(start + step, out.length)));
  }

  private writer(t: HostTensor): WriteRows {
    let writer = this.writers.get(t);
    if (!writer) {
      writer = t.definition.prepare(this);
      this.writers.set(t, writer);
    }
    return writer;
  }
}

const whole = (...tensors: readonly HostTensor[]): Need[] =>
  tensors.flatMap((t) => t.definition.needs.map(({ leaf }) => ({ leaf, byRow: false })));
const byRow = (...tensors: readonly HostTensor[]): readonly Need[] => tensors.flatMap((t) => t.definition.needs);

/** A tensor whose row r is made of row r of `operands`; `write` gets the same rows of them. */
function rowwise(
  shape: Shape,
  operands: readonly HostTensor[],
  write: (out: Numbers, ...operands: readonly Numbers[]) => void,
): HostTensor {
  const [, columns] = asMatrix(shape);
  return new HostTensor({
    shape,
    needs: byRow(...operands),
    prepare: (run) => {
      for (const t of operands) run.ready(t);
      return (first, out) => {
        const count = out.length / columns;
        write(out, ...operands.map((t) => run.rows(t, first, count)));
      };
    },
  });
}

/** A tensor of numbers that follow from their positions. */
const fixed = (shape: Shape, write: WriteRows): HostTensor =>
  new HostTensor({ shape, needs: [], prepare: () => write });

/** The values that a parameter will have on reading, so that a form can be derived before there are any. */
const valuesOf = (p: Parameter): TensorSource => ({
  dtype: p.dtype,
  shape: p.shape,
  read: () => p.source().read(),
  readSync: () => p.source().readSync(),
  // Asked for when it is read: what a parameter holds may change until then.
  get pieces() {
    const source = p.source();
    return source.pieces?.bind(source);
  },
});

/** A tensor of the algebra from values that are there already. */
export function hostTensor(source: TensorSource): HostTensor {
  const leaf: HostTensor = new HostTensor({
    shape: source.shape,
    get needs() {
      return [{ leaf, byRow: true }];
    },
    source,
    prepare: (run) => {
      const [, columns] = asMatrix(source.shape);
      return (first, out) => out.set(run.rows(leaf, first, out.length / columns));
    },
  });
  return leaf;
}

/** A batch norm's values `[C]`, wherever they come from. */
export interface NormTensors {
  readonly weight?: HostTensor | undefined;
  readonly bias?: HostTensor | undefined;
  readonly mean: HostTensor;
  readonly variance: HostTensor;
  readonly eps: number;
}

/** Rows of a product that are summed together, so that the matrix they share is read from memory once for all of them. */
const ROWS_AT_ONCE = 16;

interface ProductRows {
  /** `[…, middle]`, of which rows from `at` on count, and `[middle, columns]` from `from` on. */
  readonly v: Numbers;
  readonly w: Numbers;
  readonly rows: number;
  readonly middle: number;
  readonly columns: number;
  readonly at: number;
  readonly from: number;
}

/**
 * sums + v · w. Four terms at a time, so that sums are read and written a quarter as often, and of three rows at a time, so
 * that w is read a third as often: twice as fast as without.
 */
function addProduct(sums: Float64Array, { v, w, rows, middle, columns, at, from }: ProductRows): void {
  const fours = middle - (middle % 4);
  for (let m = 0; m < fours; m += 4) {
    const a = from + m * columns;
    const [b, c, d] = [a + columns, a + 2 * columns, a + 3 * columns];
    let r = 0;
    for (; r + 2 < rows; r += 3) {
      const [f, g, h] = [0, 1, 2].map((k) => at + (r + k) * middle + m);
      const [f0, f1, f2, f3, g0, g1, g2, g3] = [v[f], v[f + 1], v[f + 2], v[f + 3], v[g], v[g + 1], v[g + 2], v[g + 3]];
      const [h0, h1, h2, h3] = [v[h], v[h + 1], v[h + 2], v[h + 3]];
      const [x, y, z] = [r * columns, (r + 1) * columns, (r + 2) * columns];
      for (let i = 0; i < columns; i++) {
        // One by one: taking them out of a list costs more than it saves.
        const w0 = w[a + i];
        const w1 = w[b + i];
        const w2 = w[c + i];
        const w3 = w[d + i];
        sums[x + i] += f0 * w0 + f1 * w1 + f2 * w2 + f3 * w3;
        sums[y + i] += g0 * w0 + g1 * w1 + g2 * w2 + g3 * w3;
        sums[z + i] += h0 * w0 + h1 * w1 + h2 * w2 + h3 * w3;
      }
    }
    for (; r < rows; r++) {
      const f = at + r * middle + m;
      const [f0, f1, f2, f3] = [v[f], v[f + 1], v[f + 2], v[f + 3]];
      const x = r * columns;
      for (let i = 0; i < columns; i++) sums[x + i] += f0 * w[a + i] + f1 * w[b + i] + f2 * w[c + i] + f3 * w[d + i];
    }
  }
  for (let m = fours; m < middle; m++)
    for (let r = 0; r < rows; r++) {
      const [f, a, x] = [v[at + r * middle + m], from + m * columns, r * columns];
      for (let i = 0; i < columns; i++) sums[x + i] += f * w[a + i];
    }
}

/** The transpose of `rows` × `columns` values of `source`, `from` on, in `target`, `to` on. */
function transposeInto(
  target: Numbers,
  source: Numbers,
  {
    rows,
    columns,
    from = 0,
    to = 0,
  }: { readonly rows: number; readonly columns: number; readonly from?: number; readonly to?: number },
): void {
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) target[to + c * rows + r] = source[from + r * columns + c];
}

/**
 * The kernel algebra on the host. Everything is computed in float64 and rounded once to the dtype of the result, so that
 * the order of the operations does not matter in float32. The dtype is that of the first parameter in an expression.
 */
export class HostAlgebra implements KernelAlgebra<HostTensor> {
  private readonly leaves = new Map<Parameter, HostTensor>();

  of(parameter: Parameter): HostTensor {
    let leaf = this.leaves.get(parameter);
    if (!leaf) {
      leaf = hostTensor(valuesOf(parameter));
      this.leaves.set(parameter, leaf);
    }
    return leaf;
  }

  shapeOf(x: HostTensor): Shape {
    return x.shape;
  }

  normAffine({ weight, bias, runningMean, runningVar, eps }: Norm): Affine<HostTensor> {
    const [gamma, beta] = [weight && this.of(weight), bias && this.of(bias)];
    return this.affineOf({ weight: gamma, bias: beta, mean: this.of(runningMean), variance: this.of(runningVar), eps });
  }

  /** {@link normAffine} of tensors. */
  affineOf({ weight, bias, mean, variance, eps }: NormTensors): Affine<HostTensor> {
    const { shape } = variance;
    const scale = rowwise(shape, [weight ?? variance, variance], (out, gamma, v) => {
      for (let i = 0; i < out.length; i++) out[i] = (weight ? gamma[i] : 1) / Math.sqrt(v[i] + eps);
    });
    // The bias is named first, as it gives the dtype.
    const shift = rowwise(shape, bias ? [bias, mean, scale] : [mean, mean, scale], (out, beta, mu, s) => {
      for (let i = 0; i < out.length; i++) out[i] = (bias ? beta[i] : 0) - mu[i] * s[i];
    });
    return { scale, shift };
  }

  add(first: HostTensor, ...others: readonly HostTensor[]): HostTensor {
    return others.reduce((a, b) => this.plus(a, b), first);
  }

  private plus(a: HostTensor, b: HostTensor): HostTensor {
    mustBeEqual("add", a.shape, b.shape);
    const { scaled } = a.definition;
    const { connected } = b.definition;
    const sum = rowwise(a.shape, [a, b], (out, x, y) => {
      for (let i = 0; i < out.length; i++) out[i] = x[i] + y[i];
    });
    if (!scaled || !connected) return sum;
    // Most of a convolution as a fully connected layer is zeros: only where the kernel reaches is something added.
    const { weight, scale } = scaled;
    const { kernel, size } = connected;
    return new HostTensor({
      shape: a.shape,
      needs: sum.definition.needs,
      prepare: (run) => {
        run.ready(weight);
        const add = fcRows(run.all(scale), run.all(kernel), kernel.shape, size);
        const [, columns] = asMatrix(a.shape);
        return (first, out) => add(run.rows(weight, first, out.length / columns), first, out);
      },
    });
  }

  times(x: HostTensor, factor: number): HostTensor {
    return rowwise(x.shape, [x], (out, values) => scaleRun(values, out, 0, out.length, factor));
  }

  scaleOutputs(w: HostTensor, scale: HostTensor): HostTensor {
    mustFitOutputs("scaleOutputs", w.shape, scale.shape);
    const [, columns] = asMatrix(w.shape);
    return new HostTensor({
      shape: w.shape,
      needs: [...byRow(w), ...whole(scale)],
      prepare: (run) => {
        run.ready(w);
        const map = scaledRows(run.all(scale), columns);
        return (first, out) => map(run.rows(w, first, out.length / columns), first, out);
      },
      ...(w.definition.source ? { scaled: { weight: w, scale } } : {}),
    });
  }

  scaleInputs(w: HostTensor, scale: HostTensor, groups = 1): HostTensor {
    const repeat = columnsPerInput("scaleInputs", w.shape, scale.shape, groups);
    const [rows, columns] = asMatrix(w.shape);
    const [perGroup, inputs] = [rows / groups, columns / repeat];
    return new HostTensor({
      shape: w.shape,
      needs: [...byRow(w), ...whole(scale)],
      prepare: (run) => {
        run.ready(w);
        const values = run.all(scale);
        const maps = Array.from({ length: groups }, (_, g) =>
          scaledColumns(values.subarray(g * inputs, (g + 1) * inputs), repeat),
        );
        return (first, out) => {
          const x = run.rows(w, first, out.length / columns);
          for (let start = 0, row = first; start < out.length; ) {
            const group = Math.floor(row / perGroup);
            const end = Math.min(out.length, start + ((group + 1) * perGroup - row) * columns);
            maps[group](x.subarray(start, end), row, out.subarray(start, end));
            row += (end - start) / columns;
            start = end;
          }
        };
      },
    });
  }

  shiftInputs(w: HostTensor, shift: HostTensor, bias?: HostTensor, groups = 1): HostTensor {
    const repeat = columnsPerInput("shiftInputs", w.shape, shift.shape, groups);
    const [rows, columns] = asMatrix(w.shape);
    if (bias) mustBeEqual("shiftInputs", [rows], bias.shape);
    const inputs = columns / repeat;
    return new HostTensor({
      shape: [rows],
      needs: [...(bias ? byRow(bias) : []), ...byRow(w), ...whole(shift)],
      prepare: (run) => {
        run.ready(w);
        const t = run.all(shift);
        const own = bias && run.all(bias);
        return (first, out) => {
          const step = Math.max(1, Math.floor(STEP / columns));
          for (let start = 0; start < out.length; start += step) {
            const count = Math.min(step, out.length - start);
            const values = run.rows(w, first + start, count);
            for (let r = 0, i = 0; r < count; r++) {
              const row = first + start + r;
              const from = Math.floor((row * groups) / rows) * inputs;
              let sum = own ? own[row] : 0;
              for (let c = from; c < from + inputs; c++)
                for (const s = t[c], end = i + repeat; i < end; i++) sum += values[i] * s;
              out[start + r] = sum;
            }
          }
        };
      },
    });
  }

  padKernel(w: HostTensor, size: number | Pair, at?: Pair): HostTensor {
    return place(w, padding(w.shape, size, at));
  }

  dilate(w: HostTensor, rate: number | Pair): HostTensor {
    return place(w, dilation(w.shape, rate));
  }

  pointwiseThen(first: HostTensor, second: HostTensor, groups = 1): HostTensor {
    const shape = composition(first.shape, second.shape, groups);
    const [o, c] = shape;
    const [, middle, h, width] = second.shape;
    const area = h * width;
    return new HostTensor({
      shape,
      needs: [...byRow(second), ...whole(first)],
      prepare: (run) => {
        run.ready(second);
        const w = run.all(first);
        return (start, out) => {
          const count = out.length / (c * area);
          const kernels = run.rows(second, start, count);
          // One output's kernel with its positions as rows, and its product with the first.
          const v = new Float64Array(area * middle);
          const sums = new Float64Array(area * c);
          for (let r = 0; r < count; r++) {
            const group = Math.floor(((start + r) * groups) / o);
            transposeInto(v, kernels, { rows: middle, columns: area, from: r * v.length });
            sums.fill(0);
            addProduct(sums, { v, w, rows: area, middle, columns: c, at: 0, from: group * middle * c });
            transposeInto(out, sums, { rows: area, columns: c, to: r * sums.length });
          }
        };
      },
    });
  }

  thenPointwise(first: HostTensor, second: HostTensor, groups = 1): HostTensor {
    const shape = compositionBefore(first.shape, second.shape, groups);
    const [, columns] = asMatrix(shape);
    const [o, middle] = second.shape;
    return new HostTensor({
      shape,
      needs: [...byRow(second), ...whole(first)],
      prepare: (run) => {
        run.ready(second);
        const w = run.all(first);
        return (start, out) => {
          const count = out.length / columns;
          const v = run.rows(second, start, count);
          // Summed in float64, whatever the result is stored in.
          const sums = new Float64Array(ROWS_AT_ONCE * columns);
          for (let r = 0; r < count; ) {
            const group = Math.floor(((start + r) * groups) / o);
            const rows = Math.min(ROWS_AT_ONCE, count - r, ((group + 1) * o) / groups - start - r);
            sums.fill(0);
            addProduct(sums, { v, w, rows, middle, columns, at: r * middle, from: group * middle * columns });
            out.set(sums.subarray(0, rows * columns), r * columns);
            r += rows;
          }
        };
      },
    });
  }

  identityKernel(size: number | Pair, channels: number, groups = 1): HostTensor {
    const { shape, middle } = identityShape(size, channels, groups);
    return perChannel(shape, (kernel) => {
      kernel[middle] = 1;
    });
  }

  poolKernel(size: number | Pair, channels: number, groups = 1): HostTensor {
    const [h, w] = pair(size);
    return perChannel(poolShape(size, channels, groups), (kernel) => void kernel.fill(1 / (h * w)));
  }

  concatOutputs(first: HostTensor, ...others: readonly HostTensor[]): HostTensor {
    const parts = [first, ...others];
    const shape = concatenation(parts.map((t) => t.shape));
    const [, columns] = asMatrix(shape);
    return new HostTensor({
      shape,
      needs: whole(...parts),
      prepare: (run) => {
        const values = parts.map((t) => run.all(t));
        return (start, out) => {
          const [begin, end] = [start * columns, start * columns + out.length];
          let offset = 0;
          for (const part of values) {
            const [from, to] = [Math.max(begin, offset), Math.min(end, offset + part.length)];
            if (from < to) out.set(part.subarray(from - offset, to - offset), from - begin);
            offset += part.length;
          }
        };
      },
    });
  }

  convToFc(kernel: HostTensor, size: Pair): HostTensor {
    const shape = fcShape(kernel.shape, size);
    return new HostTensor({
      shape,
      needs: whole(kernel),
      prepare: (run) => {
        // A sum with nothing, in which only the kernel's values are left.
        const add = fcRows(new Float64Array(shape[0]), run.all(kernel), kernel.shape, size);
        return (first, out) => add(new Float64Array(out.length), first, out);
      },
      connected: { kernel, size },
    });
  }

  repeatOutputs(w: HostTensor, count: number): HostTensor {
    const [, columns] = asMatrix(w.shape);
    return new HostTensor({
      shape: [w.shape[0] * count, ...w.shape.slice(1)],
      needs: whole(w),
      prepare: (run) => {
        const values = run.all(w);
        return (first, out) => {
          for (let start = 0, row = first; start < out.length; start += columns, row++) {
            const from = Math.floor(row / count) * columns;
            out.set(values.subarray(from, from + columns), start);
          }
        };
      },
    });
  }
}

/** The values of a kernel in a larger one of zeros. */
function place(w: HostTensor, { shape, at: [top, left], rate: [down, along] }: Placement): HostTensor {
  if (sameShape(w.shape, shape)) return w;
  const [, , h, width] = w.shape;
  const [, , height, columns] = shape;
  return rowwise(shape, [w], (out, values) => {
    out.fill(0);
    for (let i = 0, to = 0; i < values.length; to += height * columns)
      for (let y = 0; y < h; y++)
        for (let x = 0; x < width; x++, i++) out[to + (top + y * down) * columns + left + x * along] = values[i];
  });
}

/** Kernels `[C, C/g, h, w]` that only look at their own channel. */
function perChannel(shape: Shape, write: (kernel: Numbers) => void): HostTensor {
  const [, perGroup, h, w] = shape;
  const columns = perGroup * h * w;
  return fixed(shape, (first, out) => {
    out.fill(0);
    for (let start = 0, row = first; start < out.length; start += columns, row++) {
      const from = start + (row % perGroup) * h * w;
      write(out.subarray(from, from + h * w));
    }
  });
}
