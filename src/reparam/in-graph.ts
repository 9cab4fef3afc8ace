import { must } from "../errors.ts";
import {
  add,
  concat,
  constant,
  div,
  expand,
  flatten,
  gather,
  matmul,
  mul,
  type Pair,
  pad,
  pair,
  reduceSum,
  reshape,
  slice,
  sqrt,
  sub,
  transpose,
  type Value,
} from "../graph/index.ts";
import type { Module, Parameter } from "../nn/index.ts";
import { type DType, isFloating, type Shape, sizeOf, Tensor } from "../tensor/index.ts";
import {
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
  type Placement,
  padding,
  poolShape,
} from "./algebra.ts";
import { isReparameterizable } from "./contract.ts";

export interface GraphAlgebraOptions {
  /** The value that stands for a parameter. Default: its own; a penalty may want some of them as constants. */
  readonly of?: (parameter: Parameter) => Value;
  /** Of the identity and of pooling. Default float32. */
  readonly dtype?: DType;
}

/** The kernel algebra in the graph: values that can be differentiated, in the dtype of the parameters. */
export function graphAlgebra({
  of = (p) => p.value,
  dtype = "float32",
}: GraphAlgebraOptions = {}): KernelAlgebra<Value> {
  /** Kernels `[C, C/g, h, w]` that only look at their own channel. */
  const perChannel = (shape: Shape, kernel: ArrayLike<number>): Value => {
    const [channels, perGroup] = shape;
    const values = new Float64Array(sizeOf(shape));
    for (let c = 0; c < channels; c++) values.set(kernel, (c * perGroup + (c % perGroup)) * kernel.length);
    return constant(Tensor.of(dtype, shape, values));
  };
  return {
    of,
    shapeOf: (x) => x.shape,
    normAffine: ({ weight, bias, runningMean, runningVar, eps }) => {
      const deviation = sqrt(add(of(runningVar), eps));
      const scale = weight ? div(of(weight), deviation) : div(1, deviation);
      const moved = mul(of(runningMean), scale);
      return { scale, shift: bias ? sub(of(bias), moved) : sub(0, moved) };
    },
    add: (first, ...others) =>
      others.reduce((a, b) => {
        mustBeEqual("add", a.shape, b.shape);
        return add(a, b);
      }, first),
    times: mul,
    scaleOutputs: (w, scale) => {
      mustFitOutputs("scaleOutputs", w.shape, scale.shape);
      return mul(w, reshape(scale, [w.shape[0], ...w.shape.slice(1).map(() => 1)]));
    },
    scaleInputs: (w, scale, groups = 1) => {
      const [grouped, factors] = byInput("scaleInputs", w, scale, groups);
      return reshape(mul(grouped, factors), w.shape);
    },
    shiftInputs: (w, shift, bias, groups = 1) => {
      const [rows] = asMatrix(w.shape);
      if (bias) mustBeEqual("shiftInputs", [rows], bias.shape);
      const [grouped, shifts] = byInput("shiftInputs", w, shift, groups);
      const moved = reshape(reduceSum(mul(grouped, shifts), [2, 3]), [rows]);
      return bias ? add(bias, moved) : moved;
    },
    padKernel: (w, size, at) => place(w, padding(w.shape, size, at)),
    dilate: (w, rate) => place(w, dilation(w.shape, rate)),
    pointwiseThen: (first, second, groups = 1) => {
      const shape = composition(first.shape, second.shape, groups);
      const [o, c, h, width] = shape;
      const [outputs, middle, area] = [o / groups, first.shape[0] / groups, h * width];
      const rows = transpose(reshape(second, [groups, outputs, middle, area]), [0, 1, 3, 2]);
      const sums = matmul(reshape(rows, [groups, outputs * area, middle]), reshape(first, [groups, middle, c]));
      return reshape(transpose(reshape(sums, [groups, outputs, area, c]), [0, 1, 3, 2]), shape);
    },
    thenPointwise: (first, second, groups = 1) => {
      const shape = compositionBefore(first.shape, second.shape, groups);
      const [o, ...kernel] = shape;
      const [outputs, middle] = [o / groups, first.shape[0] / groups];
      const rows = reshape(first, [groups, middle, sizeOf(kernel)]);
      return reshape(matmul(reshape(second, [groups, outputs, middle]), rows), shape);
    },
    identityKernel: (size, channels, groups = 1) => {
      const { shape, middle } = identityShape(size, channels, groups);
      return perChannel(
        shape,
        Array.from({ length: shape[2] * shape[3] }, (_, i) => (i === middle ? 1 : 0)),
      );
    },
    poolKernel: (size, channels, groups = 1) => {
      const [h, w] = pair(size);
      return perChannel(poolShape(size, channels, groups), new Float64Array(h * w).fill(1 / (h * w)));
    },
    concatOutputs: (...parts) => {
      concatenation(parts.map((t) => t.shape));
      return concat(parts, 0);
    },
    convToFc: (w, size) => {
      const shape = fcShape(w.shape, size);
      const [o, c, ...kernel] = w.shape;
      const [area, positions] = [size[0] * size[1], sizeOf(kernel)];
      // One zero behind the kernel's values, to be taken where it does not reach.
      const values = pad(reshape(w, [o, c, positions]), [0, 0, 0], [0, 0, 1]);
      const taken = reshape(gather(values, kernelPositions(kernel as unknown as Pair, size), 2), [o, c, area, area]);
      return reshape(transpose(taken, [0, 2, 1, 3]), shape);
    },
    repeatOutputs: (w, count) => {
      const [rows, ...rest] = w.shape;
      return flatten(expand(reshape(w, [rows, 1, ...rest]), [rows, count, ...rest]), 0, 1);
    },
  };
}

/** Weights as `[g, O/g, C/g, columns per channel]` and a vector `[C]` in the shape that goes with them. */
function byInput(what: string, w: Value, vector: Value, groups: number): readonly [Value, Value] {
  const repeat = columnsPerInput(what, w.shape, vector.shape, groups);
  const [rows, columns] = asMatrix(w.shape);
  return [
    reshape(w, [groups, rows / groups, columns / repeat, repeat]),
    reshape(vector, [groups, 1, columns / repeat, 1]),
  ];
}

/** The values of a kernel in a larger one of zeros. */
function place(w: Value, { shape, at: [top, left], rate: [down, along] }: Placement): Value {
  const [o, c, h, width] = w.shape;
  // Zeros after each row and each column, of which the last ones are cut off again.
  const spread = pad(reshape(w, [o, c, h, 1, width, 1]), [0, 0, 0, 0, 0, 0], [0, 0, 0, down - 1, 0, along - 1]);
  const [height, columns] = [(h - 1) * down + 1, (width - 1) * along + 1];
  const cut = slice(reshape(spread, [o, c, h * down, width * along]), [
    { axis: 2, start: 0, end: height },
    { axis: 3, start: 0, end: columns },
  ]);
  return pad(cut, [0, 0, top, left], [0, 0, shape[2] - height - top, shape[3] - columns - left]);
}

/** For each pair of pixels (i, j), (u, v) the position in the kernel that joins them; one past the end if none does. */
function kernelPositions([kh, kw]: Pair, [h, w]: Pair): number[] {
  const [down, along] = [(kh - 1) / 2, (kw - 1) / 2];
  const positions: number[] = [];
  for (let i = 0; i < h; i++)
    for (let j = 0; j < w; j++)
      for (let u = 0; u < h; u++)
        for (let v = 0; v < w; v++) {
          const [y, x] = [u - i + down, v - j + along];
          positions.push(y >= 0 && y < kh && x >= 0 && x < kw ? y * kw + x : kh * kw);
        }
  return positions;
}

/**
 * Weights and biases that a merge of a model's blocks would give, as values in the graph: by the keys of the merged
 * form, and differentiable by the parameters of the present one. What a merge leaves as it is is not among them. For
 * quantization-aware training and penalties on what will be deployed.
 *
 * @param model  a block, or a network with blocks in it
 * @throws `merge/no-equivalent` for a block that has a `merge` but no `equivalent`
 */
export function equivalentInGraph(model: Module, of?: (parameter: Parameter) => Value): Map<string, Value> {
  const found = new Map<string, Value>();
  const visit = (module: Module, path: string): void => {
    const prefix = path && `${path}.`;
    if (!isReparameterizable(module)) {
      for (const [name, member] of module.members()) if ("members" in member) visit(member, prefix + name);
      return;
    }
    must(
      "equivalent" in module,
      "merge/no-equivalent",
      () =>
        `merge: ${module.constructor.name}${path && ` (${path})`} has a merge(), but no equivalent() to be put into a graph`,
      "model",
    );
    const first = [...module.state()].find(([, p]) => isFloating(p.dtype));
    const algebra = graphAlgebra({ ...(of ? { of } : {}), ...(first ? { dtype: first[1].dtype } : {}) });
    for (const [name, value] of Object.entries(module.equivalent(algebra))) found.set(prefix + name, value);
  };
  visit(model, "");
  return found;
}
