import { sizeOf } from "../../tensor/index.ts";
import { reduceSum, reshape } from "../ops/broadcast.ts";
import { add, mul } from "../ops/elementwise.ts";
import { linear, matmul } from "../ops/matmul.ts";
import { transpose } from "../ops/shape.ts";
import type { Value } from "../value.ts";
import type { NodeContext, Reader } from "./context.ts";

const scaled = (x: Value, factor: number): Value => (factor === 1 ? x : mul(x, factor));
const turned = (x: Value, turn: boolean): Value => (turn ? transpose(x, [1, 0]) : x);

function readGemm(node: NodeContext): Value {
  const a = turned(node.input(0), node.int("transA", 0) === 1);
  const b = node.input(1);
  const product = node.int("transB", 0) === 1 ? linear(a, b) : matmul(a, b);
  const y = scaled(product, node.float("alpha", 1));
  const c = node.optional(2);
  return c ? add(y, scaled(c, node.float("beta", 1))) : y;
}

/** A vector counts as a row on the left and as a column on the right; the added axis is taken away again. */
function readMatMul(node: NodeContext): Value {
  const [a, b] = [node.input(0), node.input(1)];
  const [row, column] = [a.shape.length === 1, b.shape.length === 1];
  const y = matmul(row ? reshape(a, [1, a.shape[0]]) : a, column ? reshape(b, [b.shape[0], 1]) : b);
  const rank = y.shape.length;
  return reshape(
    y,
    y.shape.filter((_, i) => !(row && i === rank - 2) && !(column && i === rank - 1)),
  );
}

/** A tensor whose axes have names. */
interface Labelled {
  readonly x: Value;
  readonly axes: readonly string[];
}

/** Sums over the axes that neither the other operand nor the output has. */
function summed({ x, axes }: Labelled, kept: readonly string[]): Labelled {
  const gone = axes.flatMap((label, i) => (kept.includes(label) ? [] : [i]));
  return gone.length ? { x: reduceSum(x, gone), axes: axes.filter((label) => kept.includes(label)) } : { x, axes };
}

/** The axes in the given order, grouped: each list of labels becomes one axis, the first list stays apart. */
function arranged({ x, axes }: Labelled, batch: readonly string[], ...groups: (readonly string[])[]): Value {
  const order = [batch, ...groups].flat().map((label) => axes.indexOf(label));
  const turnedAxes = transpose(x, order);
  const size = (labels: readonly string[]): number => sizeOf(labels.map((label) => x.shape[axes.indexOf(label)]));
  return reshape(turnedAxes, [...batch.map((label) => x.shape[axes.indexOf(label)]), ...groups.map(size)]);
}

/** Two operands: batch axes are in both and in the output, contracted axes only in both. One matrix product. */
function contract(a: Labelled, b: Labelled, output: readonly string[]): Labelled {
  const [left, right] = [summed(a, [...b.axes, ...output]), summed(b, [...a.axes, ...output])];
  const both = left.axes.filter((label) => right.axes.includes(label));
  const batch = both.filter((label) => output.includes(label));
  const inner = both.filter((label) => !output.includes(label));
  const rows = left.axes.filter((label) => !both.includes(label));
  const columns = right.axes.filter((label) => !both.includes(label));
  const y = matmul(arranged(left, batch, rows, inner), arranged(right, batch, inner, columns));
  const sizes = new Map([left, right].flatMap(({ x, axes }) => axes.map((label, i) => [label, x.shape[i]] as const)));
  const axes = [...batch, ...rows, ...columns];
  return {
    x: reshape(
      y,
      axes.map((label) => sizes.get(label)!),
    ),
    axes,
  };
}

function readEinsum(node: NodeContext): Value {
  const equation = node.text("equation").replaceAll(" ", "");
  const [sources, target] = equation.split("->");
  const lists = sources.split(",").map((labels) => [...labels]);
  const repeated = lists.some((labels) => new Set(labels).size !== labels.length);
  if (equation.includes(".") || target === undefined || repeated)
    node.fail("einsum", `the equation ${equation} is not supported: name the output, and each axis once per operand.`);
  const output = [...target];
  const operands = node.inputs().map((x, i): Labelled => ({ x, axes: lists[i] }));
  const result = operands
    .slice(1)
    .reduce((a, b, i) => contract(a, b, [...output, ...lists.slice(i + 2).flat()]), operands[0]);
  const final = summed(result, output);
  return transpose(
    final.x,
    output.map((label) => final.axes.indexOf(label)),
  );
}

export const linearReaders: Readonly<Record<string, Reader>> = {
  Einsum: readEinsum,
  Gemm: readGemm,
  MatMul: readMatMul,
};
