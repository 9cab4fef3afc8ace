import type { Shape } from "../../tensor/index.ts";
import type { Emitter, Handle } from "../emitter.ts";
import type { Target } from "../op.ts";
import type { ConvAttrs, Pair } from "./conv-options.ts";

/*
 * The formulations of a convolution and its two gradients in ONNX. Names end in what they take: `…Native`,
 * `…OnPixels` and `convCrossCorrelate` work on [N, C, H, W]; all others on batch-last [C, H, W, N].
 * In a batch-last image a step of one pixel to the right is N elements, so a dilated `Conv` over [1, C, H, W·N] is the
 * exact convolution of all images at once.
 */

export interface Form {
  readonly emit: Emitter;
  readonly device: Target["device"];
  readonly attrs: ConvAttrs;
}

// --- 1×1, stride 1 -------------------------------------------------------------------------------------------------

/** [C, H, W, N] as [C, P], or as [groups, C/groups, P]. */
function columns({ emit, attrs: { groups } }: Form, x: Handle): Handle {
  const c = x.shape[0];
  const p = x.shape.slice(1).reduce((a, b) => a * b, 1);
  return emit.reshape(x, groups === 1 ? [c, p] : [groups, c / groups, p]);
}

/** [O, C/g, kH, kW] as [O, K], or as [groups, O/groups, K]. */
function matrix({ emit, attrs: { groups } }: Form, w: Handle): Handle {
  const k = w.shape.slice(1).reduce((a, b) => a * b, 1);
  return emit.reshape(w, groups === 1 ? [w.shape[0], k] : [groups, w.shape[0] / groups, k]);
}

const transposeLast = (emit: Emitter, x: Handle): Handle => emit.transpose(x, [0, 2, 1]);

/** a · b, per group where there are several. */
const product = ({ emit, attrs: { groups } }: Form, a: Handle, b: Handle): Handle =>
  groups === 1 ? emit.gemm(a, b, false, false) : emit.matmul(a, b);
const productTransA = ({ emit, attrs: { groups } }: Form, a: Handle, b: Handle): Handle =>
  groups === 1 ? emit.gemm(a, b, true, false) : emit.matmul(transposeLast(emit, a), b);
const productTransB = ({ emit, attrs: { groups } }: Form, a: Handle, b: Handle): Handle =>
  groups === 1 ? emit.gemm(a, b, false, true) : emit.matmul(a, transposeLast(emit, b));

export function convPointwise(form: Form, x: Handle, w: Handle): Handle {
  const y = product(form, matrix(form, w), columns(form, x));
  return form.emit.reshape(y, [w.shape[0], ...x.shape.slice(1)]);
}

export function gradInputPointwise(form: Form, dy: Handle, w: Handle): Handle {
  const dx = productTransA(form, matrix(form, w), columns(form, dy));
  return form.emit.reshape(dx, [w.shape[1] * form.attrs.groups, ...dy.shape.slice(1)]);
}

export function gradWeightPointwise(form: Form, x: Handle, dy: Handle, weightShape: Shape): Handle {
  return form.emit.reshape(productTransB(form, columns(form, dy), columns(form, x)), weightShape);
}

// --- stride 1: a dilated Conv --------------------------------------------------------------------------------------

export function convDilated({ emit, attrs }: Form, x: Handle, w: Handle, padding: Pair): Handle {
  const [c, h, width, n] = x.shape;
  const [o, , kh, kw] = w.shape;
  const { dilation, groups } = attrs;
  const out = [h + 2 * padding[0] - dilation[0] * (kh - 1), width + 2 * padding[1] - dilation[1] * (kw - 1)];
  const [ph, pw] = [padding[0], padding[1] * n];
  const y = emit.node(
    "Conv",
    [emit.reshape(x, [1, c, h, width * n]), w],
    {
      dilations: [dilation[0], dilation[1] * n],
      group: groups,
      kernel_shape: [kh, kw],
      pads: [ph, pw, ph, pw],
      strides: [1, 1],
    },
    [1, o, out[0], out[1] * n],
  );
  return emit.reshape(y, [o, ...out, n]);
}

/** [O, C/g, kH, kW] → [C, O/g, kH, kW] with the taps reversed: the kernel of the input gradient. */
export function reverseKernel({ emit, attrs: { groups: g } }: Form, w: Handle): Handle {
  const [o, c, kh, kw] = w.shape;
  const taps = kh * kw;
  // A flip of the contiguous middle axis is much cheaper than one of the last two.
  const swapped = transposeLast(emit, emit.reshape(w, [g, o / g, c * taps]));
  const middle = emit.reshape(swapped, [g * c, taps, o / g]);
  const flipped = emit.slice(middle, { axis: 1, start: taps - 1, end: -1, step: -1 });
  return emit.reshape(emit.transpose(flipped, [0, 2, 1]), [g * c, o / g, kh, kw]);
}

/** Padding of the convolution that is the input gradient at stride 1. */
export const gradInputPadding = ({ attrs: { dilation, padding } }: Form, w: Handle): Pair => [
  dilation[0] * (w.shape[2] - 1) - padding[0],
  dilation[1] * (w.shape[3] - 1) - padding[1],
];

export const gradInputDilated = (form: Form, dy: Handle, w: Handle): Handle =>
  convDilated(form, dy, reverseKernel(form, w), gradInputPadding(form, w));

// --- any stride: im2col and a matrix product -----------------------------------------------------------------------

/** All taps of all positions: [C, H, W, N] → [C, kH·kW, H', W', N]. */
function im2col({ emit, attrs }: Form, x: Handle, kernel: Pair, out: Pair): Handle {
  const { stride, padding, dilation } = attrs;
  const padded = emit.pad(x, [0, padding[0], padding[1], 0], [0, padding[0], padding[1], 0]);
  const taps: Handle[] = [];
  for (let i = 0; i < kernel[0]; i++)
    for (let j = 0; j < kernel[1]; j++) {
      const part = emit.slice(
        padded,
        ...[i, j].map((tap, k) => {
          const start = tap * dilation[k];
          return { axis: k + 1, start, end: start + (out[k] - 1) * stride[k] + 1, step: stride[k] };
        }),
      );
      taps.push(emit.reshape(part, [x.shape[0], 1, out[0], out[1], x.shape[3]]));
    }
  return emit.concat(taps, 1);
}

const outputSize = ({ attrs: { stride, padding, dilation } }: Form, x: Handle, kernel: Pair): Pair =>
  [0, 1].map(
    (i) => Math.floor((x.shape[i + 1] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) / stride[i]) + 1,
  ) as [number, number];

const kernelOf = (shape: Shape): Pair => [shape[2], shape[3]];

/** [C, taps, H', W', N] as [C·taps, P], or as [groups, C/groups·taps, P]. */
function columnMatrix({ emit, attrs: { groups: g } }: Form, cols: Handle): Handle {
  const [c, taps, ...rest] = cols.shape;
  const p = rest.reduce((a, b) => a * b, 1);
  return emit.reshape(cols, g === 1 ? [c * taps, p] : [g, (c / g) * taps, p]);
}

export function convGemm(form: Form, x: Handle, w: Handle): Handle {
  const kernel = kernelOf(w.shape);
  const out = outputSize(form, x, kernel);
  const y = product(form, matrix(form, w), columnMatrix(form, im2col(form, x, kernel, out)));
  return form.emit.reshape(y, [w.shape[0], ...out, x.shape[3]]);
}

export function gradWeightGemm(form: Form, x: Handle, dy: Handle, weightShape: Shape): Handle {
  const kernel = kernelOf(weightShape);
  const cols = columnMatrix(form, im2col(form, x, kernel, [dy.shape[1], dy.shape[2]]));
  return form.emit.reshape(productTransB(form, columns(form, dy), cols), weightShape);
}

/**
 * Input gradient at any stride without a wasted product: input rows fall into `stride` phases, each fed by every
 * stride-th tap only. Per phase: shifts of dy, one product with those taps, and the phases are interleaved at the end.
 */
export function gradInputGemm(form: Form, dy: Handle, w: Handle, inputShape: Shape): Handle {
  const { emit, attrs } = form;
  const { stride, padding } = attrs;
  const [, c, h, width] = inputShape;
  const n = dy.shape[3];
  // Padded input positions, rounded up to whole strides.
  const counts = [0, 1].map((i) => Math.ceil((inputShape[i + 2] + 2 * padding[i]) / stride[i])) as [number, number];
  const rows: Handle[] = [];
  for (let r = 0; r < stride[0]; r++) {
    const phases: Handle[] = [];
    for (let s = 0; s < stride[1]; s++)
      phases.push(emit.reshape(gradInputPhase(form, dy, w, [r, s], counts), [c, counts[0], 1, counts[1], 1, n]));
    rows.push(emit.concat(phases, 4));
  }
  const full = emit.reshape(emit.concat(rows, 2), [c, counts[0] * stride[0], counts[1] * stride[1], n]);
  return emit.slice(
    full,
    { axis: 1, start: padding[0], end: padding[0] + h },
    { axis: 2, start: padding[1], end: padding[1] + width },
  );
}

/** Taps of one axis that reach positions p ≡ phase (mod stride), with the shift of dy that each sees. */
function phaseTaps(kernel: number, stride: number, dilation: number, phase: number): { tap: number; shift: number }[] {
  return Array.from({ length: kernel }, (_, tap) => tap)
    .filter((tap) => (tap * dilation) % stride === phase)
    .map((tap) => ({ tap, shift: (tap * dilation - phase) / stride }));
}

function gradInputPhase(form: Form, dy: Handle, w: Handle, phase: Pair, counts: Pair): Handle {
  const { emit, attrs } = form;
  const { stride, dilation, groups: g } = attrs;
  const [o, , kh, kw] = w.shape;
  const c = w.shape[1] * g;
  const n = dy.shape[3];
  const vertical = phaseTaps(kh, stride[0], dilation[0], phase[0]);
  const horizontal = phaseTaps(kw, stride[1], dilation[1], phase[1]);
  if (!vertical.length || !horizontal.length) {
    const empty = emit.scalar(0, dy.dtype, 4);
    const shape = [c, ...counts, n];
    return emit.node("Expand", [empty, emit.int64(shape)], {}, shape);
  }
  const lead = [vertical, horizontal].map((taps) => Math.max(...taps.map((t) => t.shift)));
  const tail = [0, 1].map((i) => Math.max(0, counts[i] - dy.shape[i + 1]));
  const padded = emit.pad(dy, [0, lead[0], lead[1], 0], [0, tail[0], tail[1], 0]);
  const shifts: Handle[] = [];
  const picks: number[] = [];
  for (const a of vertical)
    for (const b of horizontal) {
      const part = emit.slice(
        padded,
        ...[a, b].map(({ shift }, i) => ({ axis: i + 1, start: lead[i] - shift, end: lead[i] - shift + counts[i] })),
      );
      shifts.push(emit.reshape(part, [o, 1, ...counts, n]));
      picks.push(a.tap * kw + b.tap);
    }
  // Weights of these taps as [C/g, O/g·taps] per group, in the order of the shifts.
  const all = emit.reshape(w, [g, o / g, c / g, kh * kw]);
  const some = emit.node("Gather", [all, emit.int64(picks)], { axis: 3 }, [g, o / g, c / g, picks.length]);
  const turned = emit.transpose(some, [0, 2, 1, 3]);
  const k = (o / g) * picks.length;
  const left = emit.reshape(turned, g === 1 ? [c, k] : [g, c / g, k]);
  const dx = product(form, left, columnMatrix(form, emit.concat(shifts, 1)));
  return emit.reshape(dx, [c, ...counts, n]);
}

/**
 * Weight gradient at stride 1 by rows and columns: k vertical shifts of dy against k horizontal shifts of x in one
 * product give all k² taps, with 2k copies instead of k².
 */
export function gradWeightRowsColumns(form: Form, x: Handle, dy: Handle, weightShape: Shape): Handle {
  const { emit, attrs } = form;
  const { padding, groups: g } = attrs;
  const [o, cPerGroup, kh, kw] = weightShape;
  const [c, h, , n] = x.shape;
  const [, , outWidth] = dy.shape;
  const rows = h + 2 * padding[0];
  const px = emit.pad(x, [0, padding[0], padding[1], 0], [0, padding[0], padding[1], 0]);
  const py = emit.pad(dy, [0, kh - 1, 0, 0], [0, kh - 1, 0, 0]);
  const p = rows * outWidth * n;
  const stackShifts = (t: Handle, count: number, shift: (i: number) => Handle): Handle => {
    const parts = Array.from({ length: count }, (_, i) => emit.reshape(shift(i), [t.shape[0], 1, p]));
    return emit.reshape(emit.concat(parts, 1), [g, (t.shape[0] / g) * count, p]);
  };
  const ys = stackShifts(dy, kh, (i) => emit.slice(py, { axis: 1, start: kh - 1 - i, end: kh - 1 - i + rows }));
  const xs = stackShifts(x, kw, (j) => emit.slice(px, { axis: 2, start: j, end: j + outWidth }));
  const dw =
    g === 1
      ? emit.gemm(emit.reshape(ys, [o * kh, p]), emit.reshape(xs, [c * kw, p]), false, true)
      : emit.matmul(ys, transposeLast(emit, xs));
  const taps = emit.reshape(dw, [g, o / g, kh, cPerGroup, kw]);
  return emit.reshape(emit.transpose(taps, [0, 1, 3, 2, 4]), weightShape);
}

// --- [N, C, H, W] --------------------------------------------------------------------------------------------------

const nativeAttrs = ({ stride, padding: [ph, pw], dilation, groups }: ConvAttrs, kernel: Shape) => ({
  dilations: [...dilation],
  group: groups,
  kernel_shape: [...kernel],
  // ONNX order: all begins, then all ends.
  pads: [ph, pw, ph, pw],
  strides: [...stride],
});

/** Adds zero weights on axis 1 of `[g, channels/g, …]`. */
function padGroups(emit: Emitter, w: Handle, channels: number): Handle {
  const after = w.shape.map((_, i) => (i === 1 ? channels - w.shape[1] : 0));
  return emit.pad(
    w,
    w.shape.map(() => 0),
    after,
  );
}

/** The first `channels` of each group of `[N, g·padded, H, W]`. */
function cropGroups(emit: Emitter, y: Handle, g: number, channels: number): Handle {
  const [n, padded, h, w] = y.shape;
  const kept = emit.slice(emit.reshape(y, [n, g, padded / g, h, w]), { axis: 2, start: 0, end: channels });
  return emit.reshape(kept, [n, g * channels, h, w]);
}

/**
 * ONNX Runtime's WebGPU provider (1.30) computes a grouped convolution in vectors of output channels that must not
 * straddle two groups, but does: wrong numbers, no error. Each group is then filled up with zero kernels.
 */
export function convNative({ emit, device, attrs }: Form, x: Handle, w: Handle, shape: Shape): Handle {
  const { groups: g } = attrs;
  const [n, o, ...size] = shape;
  const perGroup = o / g;
  const conv = (weights: Handle, outputs: number): Handle =>
    emit.node("Conv", [x, weights], nativeAttrs(attrs, w.shape.slice(2)), [n, outputs, ...size]);
  if (device !== "webgpu" || g === 1 || perGroup < 4 || perGroup % 4 === 0) return conv(w, o);
  const filled = Math.ceil(perGroup / 4) * 4;
  const weights = padGroups(emit, emit.reshape(w, [g, perGroup, ...w.shape.slice(1)]), filled);
  const y = conv(emit.reshape(weights, [g * filled, ...w.shape.slice(1)]), g * filled);
  return cropGroups(emit, y, g, perGroup);
}

/** Also wrong on WebGPU (1.30): groups with one channel on the input's side. They get a second one, of zeros. */
export function gradInputNative({ emit, device, attrs }: Form, dy: Handle, w: Handle, inputShape: Shape): Handle {
  const { stride, padding, dilation, groups: g } = attrs;
  const kernel = w.shape.slice(2);
  const extra = [0, 1].map(
    (i) => inputShape[i + 2] - ((dy.shape[i + 2] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1),
  );
  const conv = (weights: Handle): Handle =>
    emit.node("ConvTranspose", [dy, weights], { ...nativeAttrs(attrs, kernel), output_padding: extra }, [
      inputShape[0],
      weights.shape[1] * g,
      ...inputShape.slice(2),
    ]);
  const single = device === "webgpu" && g > 1 && w.shape[1] === 1 && w.shape[0] > g;
  return single ? cropGroups(emit, conv(padGroups(emit, w, 2)), g, 1) : conv(w);
}

/**
 * Weight gradient as a convolution of x with dy, batch and channels exchanged, stride and dilation exchanged; the
 * result may be larger than the kernel and is cropped.
 */
export function convCrossCorrelate(form: Form, x: Handle, dy: Handle, weightShape: Shape): Handle {
  const { emit, attrs } = form;
  const { stride, padding, dilation, groups: g } = attrs;
  const [o, c, kh, kw] = weightShape;
  const [n, , h, w] = x.shape;
  const images = emit.reshape(emit.transpose(emit.reshape(x, [n, g, c, h, w]), [2, 1, 0, 3, 4]), [c, g * n, h, w]);
  const kernels = emit.transpose(dy, [1, 0, 2, 3]);
  const out = [0, 1].map(
    (i) => Math.floor((x.shape[i + 2] + 2 * padding[i] - stride[i] * (dy.shape[i + 2] - 1) - 1) / dilation[i]) + 1,
  );
  const swapped = { stride: dilation, dilation: stride, padding, groups: g };
  const full = convNative({ ...form, attrs: swapped }, images, kernels, [c, o, ...out]);
  const taps = emit.slice(full, { axis: 2, start: 0, end: kh }, { axis: 3, start: 0, end: kw });
  return emit.transpose(taps, [1, 0, 2, 3]);
}

/**
 * A grouped 1×1 convolution on 1×1 images, i.e. `groups` fully connected layers side by side: never a grouped `Conv`,
 * whose per-image products are tiny. With constant weights one Gemm per group can prepack them.
 */
export function convGroupsOnPixels(
  { emit, attrs: { groups: g } }: Form,
  x: Handle,
  w: Handle,
  constant: boolean,
): Handle {
  const [n, c] = x.shape;
  const [o, k] = w.shape;
  const rows = emit.reshape(x, [n, c]);
  if (g === 1) return emit.reshape(emit.gemm(rows, emit.reshape(w, [o, k]), false, true), [n, o, 1, 1]);
  if (constant) {
    const parts = Array.from({ length: g }, (_, i) => {
      const part = emit.slice(rows, { axis: 1, start: i * k, end: (i + 1) * k });
      return emit.gemm(part, emit.constantRows(w, (i * o) / g, ((i + 1) * o) / g, [o / g, k]), false, true);
    });
    return emit.reshape(emit.concat(parts, 1), [n, o, 1, 1]);
  }
  const y = emit.matmul(pixelGroups(emit, x, g), transposeLast(emit, emit.reshape(w, [g, o / g, k])));
  return fromPixelGroups(emit, y);
}

/** [N, C, 1, 1] → [g, N, C/g] and back. */
const pixelGroups = (emit: Emitter, x: Handle, g: number): Handle =>
  emit.transpose(emit.reshape(x, [x.shape[0], g, x.shape[1] / g]), [1, 0, 2]);
const fromPixelGroups = (emit: Emitter, y: Handle): Handle => {
  const [g, n, c] = y.shape;
  return emit.reshape(emit.transpose(y, [1, 0, 2]), [n, g * c, 1, 1]);
};

export function gradInputOnPixels({ emit, attrs: { groups: g } }: Form, dy: Handle, w: Handle): Handle {
  const [o, k] = w.shape;
  return fromPixelGroups(emit, emit.matmul(pixelGroups(emit, dy, g), emit.reshape(w, [g, o / g, k])));
}

export function gradWeightOnPixels(
  { emit, attrs: { groups: g } }: Form,
  x: Handle,
  dy: Handle,
  weightShape: Shape,
): Handle {
  const dw = emit.matmul(transposeLast(emit, pixelGroups(emit, dy, g)), pixelGroups(emit, x, g));
  return emit.reshape(dw, weightShape);
}
