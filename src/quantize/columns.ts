import { intsAttr, type OnnxNode, stringAttr } from "../onnx/index.ts";
import { type Shape, sizeOf, type Tensor } from "../tensor/index.ts";

/** A kernel's way over one axis of its input. */
interface Way {
  readonly kernel: number;
  readonly stride: number;
  readonly dilation: number;
  /** Padding before and behind, or which side of it is the larger one where it is automatic. */
  readonly pads: readonly [number, number] | "SAME_UPPER" | "SAME_LOWER";
}

/** Ways of a convolution's kernel over the axes behind the channels; none of a matrix product. */
export function waysOf(node: OnnxNode, weight: Shape): readonly Way[] {
  if (node.opType !== "Conv") return [];
  const kernel = weight.slice(2);
  const ones = kernel.map(() => 1);
  const [strides, dilations] = [intsAttr(node, "strides", ones), intsAttr(node, "dilations", ones)];
  const auto = stringAttr(node, "auto_pad", "NOTSET");
  const pads = auto === "VALID" ? [] : intsAttr(node, "pads", []);
  return kernel.map((size, i) => ({
    ...{ kernel: size, stride: strides[i], dilation: dilations[i] },
    pads: auto === "SAME_UPPER" || auto === "SAME_LOWER" ? auto : [pads[i] ?? 0, pads[i + kernel.length] ?? 0],
  }));
}

/** For each tap of the kernel the places of an axis that it reads, one for each output but those in the padding. */
function placesOf(size: number, { kernel, stride, dilation, pads }: Way): { outputs: number; taps: number[][] } {
  const reach = dilation * (kernel - 1) + 1;
  const same = Math.ceil(size / stride);
  const total = typeof pads === "string" ? Math.max(0, (same - 1) * stride + reach - size) : pads[0] + pads[1];
  const begin =
    typeof pads !== "string" ? pads[0] : pads === "SAME_UPPER" ? Math.floor(total / 2) : Math.ceil(total / 2);
  const outputs = Math.floor((size + total - reach) / stride) + 1;
  const taps = Array.from({ length: kernel }, (_, k) =>
    Array.from({ length: outputs }, (_, o) => o * stride - begin + k * dilation).filter((at) => at >= 0 && at < size),
  );
  return { outputs, taps };
}

/** Values that each weight of a layer is multiplied by, added up over pictures and outputs. */
export interface ColumnSums {
  /** `[inputs, ...kernel]`. */
  readonly sums: Float64Array;
  /** Outputs of one channel. */
  count: number;
}

/**
 * Adds up what each input channel holds under each tap of a layer's kernel: at the border that is padding, which counts as
 * zeros, so that on small maps the taps of one channel differ.
 *
 * @param tensor  the layer's input `[N, inputs, …]`, float32
 */
export function addColumns(all: Map<string, ColumnSums>, layer: string, tensor: Tensor, ways: readonly Way[]): void {
  const [batch, channels, ...sizes] = tensor.shape;
  const inner = sizeOf(sizes);
  const values = tensor.data as Float32Array;
  let columns = new Float64Array(channels * inner);
  for (let n = 0, i = 0; n < batch; n++) for (let at = 0; at < columns.length; at++, i++) columns[at] += values[i];
  let outputs = 1;
  // Axis by axis, [outer, size, rest] becomes [outer, kernel, rest].
  let outer = channels;
  for (const [axis, way] of ways.entries()) {
    const places = placesOf(sizes[axis], way);
    const rest = sizeOf(sizes.slice(axis + 1));
    const next = new Float64Array(outer * way.kernel * rest);
    for (let o = 0; o < outer; o++)
      for (const [k, tap] of places.taps.entries())
        for (const at of tap)
          for (let r = 0; r < rest; r++)
            next[(o * way.kernel + k) * rest + r] += columns[(o * sizes[axis] + at) * rest + r];
    columns = next;
    outer *= way.kernel;
    outputs *= places.outputs;
  }
  const entry = all.get(layer) ?? { sums: new Float64Array(columns.length), count: 0 };
  all.set(layer, entry);
  for (const [i, sum] of columns.entries()) entry.sums[i] += sum;
  entry.count += batch * outputs;
}

/** Means of {@link addColumns}, by layer. */
export const columnMeans = (all: ReadonlyMap<string, ColumnSums>): Map<string, Float64Array> =>
  new Map([...all].map(([layer, { sums, count }]) => [layer, sums.map((s) => s / count)]));
