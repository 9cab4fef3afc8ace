import { type Shape, Tensor } from "../../tensor/index.ts";
import type { Emitter, Handle } from "../emitter.ts";
import { type Form, gradInputPadding, reverseKernel } from "./conv-forms.ts";
import type { Pair } from "./conv-options.ts";

/*
 * Convolutions of small images with few channels per group, as the Local Perceptron has them. Their products have as few
 * rows as a group has channels, too few for a matrix product. With the rows of the image taken as channels, too, the
 * kernel is a banded (Toeplitz) matrix from all rows of all channels to all rows of all channels per horizontal tap:
 * H/kH times the multiply-adds, at the speed of a matrix product. In batch-last order [C, H, W, N] is [C·H, W, N], so
 * nothing is moved. All at stride 1 without dilation.
 */

/**
 * Whether this form of the convolution is the faster one (measured for 7 × 7 and 8 × 8 images, see bench/NOTES.md): the
 * fewer channels a group has, the slower are the other forms, and the more wasted products it may have.
 */
const paysByRows = (rows: number, kernel: number, outputsPerGroup: number): boolean =>
  kernel > 1 && rows <= kernel * (1 + 5 / outputsPerGroup);

export const convPaysByRows = (x: Shape, [o, , kh]: Shape, groups: number): boolean => paysByRows(x[2], kh, o / groups);
export const gradInputPaysByRows = (dy: Shape, [, c, kh]: Shape): boolean => paysByRows(dy[2], kh, c);

/** Likewise the weight gradient; its banded matrices must not be larger than what the other form copies. */
export function gradWeightPaysByRows(x: Shape, [o, c, kh, kw]: Shape): boolean {
  const [n, channels, h, w] = x;
  const banded = o * h * c * h * kw;
  return kh > 1 && h <= kh * (1 + 14 / c) && banded <= 2 * n * channels * h * w;
}

/** Height after a convolution at stride 1. */
const outSize = (size: number, kernel: number, padding: number): number => size + 2 * padding - kernel + 1;

/** For each pair of an output and an input row the vertical tap that joins them, or `none`. */
function rowTaps(h: number, out: number, kernel: number, padding: number, none: number): number[] {
  return Array.from({ length: out * h }, (_, i) => {
    const tap = (i % h) - Math.floor(i / h) + padding;
    return tap >= 0 && tap < kernel ? tap : none;
  });
}

/** [O, C/g, kH, kW] → [O·H', C/g·H, kW, 1]. */
function bandedKernel(emit: Emitter, w: Handle, h: number, padding: number): Handle {
  const [o, c, kh, kw] = w.shape;
  const out = outSize(h, kh, padding);
  const withZero = emit.pad(emit.reshape(w, [o * c, kh, kw]), [0, 0, 0], [0, 1, 0]);
  const taps = emit.int64(rowTaps(h, out, kh, padding, kh));
  const band = emit.node("Gather", [withZero, taps], { axis: 1 }, [o * c, out * h, kw]);
  const turned = emit.transpose(emit.reshape(band, [o, c, out, h, kw]), [0, 2, 1, 3, 4]);
  return emit.reshape(turned, [o * out, c * h, kw, 1]);
}

/** Batch-last [C, H, W, N] ∗ [O, C/g, kH, kW] → [O, H', W', N]. */
export function convByRows({ emit, attrs: { groups } }: Form, x: Handle, w: Handle, padding: Pair): Handle {
  const [c, h, width, n] = x.shape;
  const [o, , kh, kw] = w.shape;
  const out = [outSize(h, kh, padding[0]), outSize(width, kw, padding[1])];
  const y = emit.node(
    "Conv",
    [emit.reshape(x, [1, c * h, width, n]), bandedKernel(emit, w, h, padding[0])],
    {
      dilations: [1, 1],
      group: groups,
      kernel_shape: [kw, 1],
      pads: [padding[1], 0, padding[1], 0],
      strides: [1, 1],
    },
    [1, o * out[0], out[1], n],
  );
  return emit.reshape(y, [o, ...out, n]);
}

/** The input gradient is the convolution of dy with the reversed kernel. */
export const gradInputByRows = (form: Form, dy: Handle, w: Handle): Handle =>
  convByRows(form, dy, reverseKernel(form, w), gradInputPadding(form, w));

/**
 * Weight gradient: per horizontal tap one product of dy and x, both cut to the columns that the tap joins, gives the
 * gradient of its banded matrix; the diagonals are then summed.
 */
export function gradWeightByRows({ emit, attrs }: Form, x: Handle, dy: Handle, shape: Shape): Handle {
  const { padding, groups: g } = attrs;
  const [o, cPerGroup, kh, kw] = shape;
  const [c, h, width, n] = x.shape;
  const [, outH, outW] = dy.shape;
  const columns = (t: Handle, rows: number, size: number, start: number, count: number): Handle => {
    const cut = emit.slice(emit.reshape(t, [rows, size, n]), { axis: 1, start, end: start + count });
    return emit.reshape(cut, [g, rows / g, count * n]);
  };
  const bands = Array.from({ length: kw }, (_, tap) => {
    const shift = tap - padding[1];
    const start = Math.max(0, -shift);
    const count = Math.min(outW, width - shift) - start;
    const band =
      count > 0
        ? emit.matmul(
            columns(dy, o * outH, outW, start, count),
            emit.transpose(columns(x, c * h, width, start + shift, count), [0, 2, 1]),
          )
        : emit.constant(Tensor.zeros(x.dtype, [g, (o / g) * outH, cPerGroup * h]));
    return emit.reshape(band, [o, outH, cPerGroup, h, 1]);
  });
  // [O, H', C/g, H, kW] → [O·C/g, H'·H, kW], and those of one vertical tap are added.
  const turned = emit.transpose(emit.concat(bands, 4), [0, 2, 4, 1, 3]);
  const pairs = emit.reshape(turned, [o * cPerGroup * kw, outH * h]);
  const sums = emit.matmul(pairs, emit.constant(diagonals(h, outH, kh, padding[0])));
  return emit.reshape(emit.transpose(emit.reshape(sums, [o, cPerGroup, kw, kh]), [0, 1, 3, 2]), shape);
}

const known = new Map<string, Tensor>();

/** [H'·H, kH] with a 1 where a pair of rows belongs to a tap; one tensor per size, so that graphs share it. */
function diagonals(h: number, out: number, kernel: number, padding: number): Tensor {
  const key = [h, out, kernel, padding].join();
  const made = known.get(key);
  if (made) return made;
  const values = new Float32Array(out * h * kernel);
  for (const [pair, tap] of rowTaps(h, out, kernel, padding, -1).entries())
    if (tap >= 0) values[pair * kernel + tap] = 1;
  const tensor = Tensor.float32([out * h, kernel], values);
  known.set(key, tensor);
  return tensor;
}
