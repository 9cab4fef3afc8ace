import { type HostAlgebra, HostTensor, hostTensor } from "../../reparam/host.ts";
import { type Shape, Tensor } from "../../tensor/index.ts";

/*
 * What the rules for ONNX graphs need beside the kernel algebra (reparam/algebra.ts): blocks know how their own
 * convolutions are grouped and stored, any file may group and store them otherwise. Float64, nothing is rounded here.
 */

const product = (shape: Shape): number => shape.reduce((n, d) => n * d, 1);

/** All of what some tensors need, read in full. */
const whole = (...tensors: readonly HostTensor[]) =>
  tensors.flatMap((t) => t.definition.needs.map(({ leaf }) => ({ leaf, byRow: false })));

/** A tensor whose values are written all at once from those of others. */
const computed = (
  shape: Shape,
  operands: readonly HostTensor[],
  write: (out: Float64Array, ...values: readonly ArrayLike<number>[]) => void,
): HostTensor =>
  new HostTensor({
    shape,
    needs: whole(...operands),
    prepare: (run) => {
      let all: Float64Array | undefined;
      const columns = product(shape.slice(1));
      return (first, out) => {
        if (!all) {
          all = new Float64Array(product(shape));
          write(all, ...operands.map((t) => run.all(t)));
        }
        out.set(all.subarray(first * columns, first * columns + out.length));
      };
    },
  });

/** The same values under another shape with as many rows. */
export const viewed = (t: HostTensor, shape: Shape): HostTensor => new HostTensor({ ...t.definition, shape });

/** Some rows of a tensor. */
export const someRows = (t: HostTensor, start: number, count: number): HostTensor =>
  new HostTensor({
    shape: [count, ...t.shape.slice(1)],
    needs: whole(t),
    prepare: (run) => {
      run.ready(t);
      const columns = product(t.shape.slice(1));
      return (first, out) => out.set(run.rows(t, start + first, out.length / columns));
    },
  });

/** A tensor of given numbers. */
export const numbers = (values: readonly number[]): HostTensor =>
  hostTensor(Tensor.of("float64", [values.length], values));

/** The values of a tensor. */
export const valuesOf = (t: HostTensor): Float64Array => t.source("float64").readSync().toFloat64();

/** One value for each of n channels: as it is, or the only one n times. */
export const widened = (k: HostAlgebra, t: HostTensor, channels: number): HostTensor =>
  t.shape[0] === 1 && channels !== 1 ? k.repeatOutputs(t, channels) : t;

/**
 * Weights `[A, B/g, …]` with the channel axes of every group swapped: `[B, A/g, …]`. So are those of a transposed
 * convolution stored, and those of a product from the right.
 */
export function swapped(w: HostTensor, groups = 1): HostTensor {
  const [a, perGroup, ...kernel] = w.shape;
  const [rows, area] = [a / groups, product(kernel)];
  return computed([perGroup * groups, rows, ...kernel], [w], (out, values) => {
    for (let g = 0, to = 0; g < groups; g++)
      for (let b = 0; b < perGroup; b++)
        for (let r = 0; r < rows; r++)
          for (let i = 0, from = ((g * rows + r) * perGroup + b) * area; i < area; i++) out[to++] = values[from++];
  });
}

/** Weights of `groups` groups as those of fewer: zeros where a channel was not connected. */
export function regrouped(w: HostTensor, groups: number, fewer: number): HostTensor {
  if (groups === fewer) return w;
  const [rows, perGroup, ...kernel] = w.shape;
  const [block, each] = [perGroup * product(kernel), groups / fewer];
  return new HostTensor({
    shape: [rows, perGroup * each, ...kernel],
    needs: w.definition.needs,
    prepare: (run) => {
      run.ready(w);
      const columns = block * each;
      return (first, out) => {
        const count = out.length / columns;
        const values = run.rows(w, first, count);
        out.fill(0);
        for (let r = 0; r < count; r++) {
          const group = Math.floor(((first + r) * groups) / rows);
          out.set(values.subarray(r * block, (r + 1) * block), r * columns + (group % each) * block);
        }
      };
    },
  });
}

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

/** Largest number that divides all. */
export const commonDivisor = (values: readonly number[]): number => values.reduce(gcd, 0);

/**
 * `first` `[M, C/a, h, w]` in `a` groups and then `second` `[O, M/b, y, x]` in `b` groups, both with stride 1 and without
 * padding in between, as one kernel `[O, C/g, h + y − 1, w + x − 1]` in g = gcd(a, b) groups.
 */
export function composed(first: HostTensor, second: HostTensor, a: number, b: number): HostTensor {
  const groups = commonDivisor([a, b]);
  const [middle, inputs, h, w] = first.shape;
  const [rows, taken, y, x] = second.shape;
  const shape = [rows, (inputs * a) / groups, h + y - 1, w + x - 1];
  const [channels, columns] = [shape[1], shape[3]];
  const area = shape[2] * columns;
  return new HostTensor({
    shape,
    needs: [...second.definition.needs, ...whole(first)],
    prepare: (run) => {
      run.ready(second);
      const u = run.all(first);
      return (start, out) => {
        const count = out.length / (channels * area);
        const v = run.rows(second, start, count);
        const sums = new Float64Array(out.length);
        for (let r = 0; r < count; r++) {
          const row = start + r;
          const [from, group] = [Math.floor((row * b) / rows) * taken, Math.floor((row * groups) / rows)];
          for (let m = 0; m < taken; m++) {
            const source = from + m;
            const offset = Math.floor((source * a) / middle) * inputs - group * channels;
            for (let c = 0; c < inputs; c++)
              for (let p = 0; p < y * x; p++) {
                const factor = v[(r * taken + m) * y * x + p];
                if (factor === 0) continue;
                const to = (r * channels + offset + c) * area + Math.floor(p / x) * columns + (p % x);
                for (let i = 0; i < h; i++)
                  for (let j = 0; j < w; j++)
                    sums[to + i * columns + j] += factor * u[((source * inputs + c) * h + i) * w + j];
              }
          }
        }
        out.set(sums);
      };
    },
  });
}
