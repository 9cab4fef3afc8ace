import { conv2d, convTranspose2d } from "../ops/conv.ts";
import type { Pair } from "../ops/conv-options.ts";
import { add } from "../ops/elementwise.ts";
import { asChannelShape } from "../ops/norm.ts";
import { pad, slice } from "../ops/shape.ts";
import type { Value } from "../value.ts";
import type { NodeContext, Reader } from "./context.ts";
import { asImages, isSymmetric, likeInput, reachOf, readWindow, spatialPair, type Window } from "./window.ts";

const withBias = (y: Value, bias: Value | undefined): Value => (bias ? add(y, asChannelShape(bias, 4)) : y);

/** The image and the weights with two spatial axes, and the window over them. */
function operands(node: NodeContext): { readonly x: Value; readonly w: Value; readonly window: Window } {
  if (![3, 4].includes(node.input(0).shape.length))
    node.fail(
      "rank",
      `an input of rank ${node.input(0).shape.length} is not supported, only [N, C, W] and [N, C, H, W].`,
    );
  const [x, w] = [asImages(node.input(0)), asImages(node.input(1))];
  return { x, w, window: readWindow(node, spatial(x), spatial(w)) };
}

const spatial = (x: Value): Pair => [x.shape[2], x.shape[3]];

function readConv(node: NodeContext): Value {
  const { x, w, window } = operands(node);
  const { stride, dilation, before, after } = window;
  const groups = node.int("group", 1);
  const even = isSymmetric(window);
  const [, weight, bias] = node.node.inputs;
  const other =
    even && node.input(0).shape.length === 4
      ? node.conv?.({ x, weight, bias: bias || undefined, stride, dilation, groups, padding: before })
      : undefined;
  if (other) return other;
  const padded = even ? x : pad(x, [0, 0, ...before], [0, 0, ...after]);
  const y = conv2d(padded, w, { stride, dilation, groups, padding: even ? before : 0 });
  return likeInput(withBias(y, node.optional(2)), node.input(0));
}

/** Padding that leaves the wanted output of a transposed convolution, where the file gives its size instead. */
function paddingFor(node: NodeContext, whole: Pair, wanted: readonly number[]): readonly [Pair, Pair] {
  const upper = node.text("auto_pad", "NOTSET") === "SAME_UPPER";
  const totals = whole.map((d, i) => d - wanted[i]);
  const small = totals.map((t) => Math.floor(t / 2));
  const large = totals.map((t, i) => t - small[i]);
  const [before, after] = upper ? [small, large] : [large, small];
  return [
    [before[0], before[1]],
    [after[0], after[1]],
  ];
}

function readConvTranspose(node: NodeContext): Value {
  const { x, w, window } = operands(node);
  const { stride, dilation, kernel } = window;
  const groups = node.int("group", 1);
  const outputPadding = spatialPair(node, node.intList("output_padding"), 0);
  const size = node.intList("output_shape");
  const same = node.text("auto_pad", "NOTSET").startsWith("SAME");
  if (!size && !same && isSymmetric(window)) {
    const y = convTranspose2d(x, w, { stride, dilation, groups, outputPadding, padding: window.before });
    return likeInput(withBias(y, node.optional(2)), node.input(0));
  }
  // Any other padding crops the whole, whose last rows the output padding adds.
  const reach = reachOf(kernel, dilation);
  const whole = spatial(x).map((d, i) => (d - 1) * stride[i] + reach[i] + outputPadding[i]) as [number, number];
  const wanted = size ? spatialPair(node, size.slice(-2), 1) : spatial(x).map((d, i) => d * stride[i]);
  const [before, after] = size || same ? paddingFor(node, whole, wanted) : [window.before, window.after];
  const full = convTranspose2d(x, w, { stride, dilation, groups });
  const ends = whole.map((d, i) => d - after[i]);
  const cropped = slice(
    full,
    ends.map((end, i) => ({ axis: i + 2, start: Math.max(0, before[i]), end: Math.min(end, full.shape[i + 2]) })),
  );
  const missing = ends.map((end, i) => Math.max(0, end - full.shape[i + 2]));
  const y = pad(cropped, [0, 0, ...before.map((b) => Math.max(0, -b))], [0, 0, ...missing]);
  return likeInput(withBias(y, node.optional(2)), node.input(0));
}

export const convReaders: Readonly<Record<string, Reader>> = {
  Conv: readConv,
  ConvTranspose: readConvTranspose,
};
