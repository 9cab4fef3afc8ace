/** The inner loops of preprocessing, most of them four to sixteen values at a time: a WebAssembly module, written down here. */
import { type Code, kernelFunction, kernelModule, op, repeatWhile, type Variable } from "./wasm.ts";

const { i32, v128, i8x16, i16x8, i32x4 } = op;

/** Fixed point as in Pillow: 32 bits less 8 for the pixel and 2 for the sum. */
export const fractionBits = 22;

/** Weights along rows are handled four at a time. */
export const rowTaps = 4;

/** Bytes that the loops may read or write past the end of what they are given. */
const slack = 16;

const advance = (pointer: Variable, by: Code): Code => [pointer.get, by, i32.add, pointer.set];
const below = (pointer: Variable, end: Variable): Code => [pointer.get, end.get, i32.ltU];
/** What sums begin with, so that cutting off the fraction rounds. */
const half = i32.const(1 << (fractionBits - 1));
const addProduct = (sum: Variable, a: Code, b: Code): Code => [sum.get, a, b, i32x4.mul, i32x4.add, sum.set];
const whole = (sum: Code): Code => [sum, i32.const(fractionBits), i32x4.shrS];
/** Four vectors of sums as sixteen bytes; clipped, as the negative lobes of the cubic overshoot. */
const clipped = ([a, b, c, d]: readonly Code[]): Code => [
  [whole(a), whole(b), i16x8.narrowI32x4S],
  [whole(c), whole(d), i16x8.narrowI32x4S],
  i8x16.narrowI16x8U,
];
const fourTimes = <T>(value: T): T[] => [value, value, value, value];

/** How {@link alongRows} adds up four pixels at a time. */
interface RowSum {
  readonly channels: 1 | 3;
  /** Leaves what the sum begins with. */
  readonly begin: Code;
  /** Adds; `values` are for its own use. */
  add(sum: Variable, pixels: Code, weights: Code, values: readonly Variable[]): Code;
  /** Leaves the sum, in the first lanes. */
  total(sum: Variable): Code;
  /** Pops bytes and an address. */
  readonly store: Code;
}

/** Bytes i, i + 1, i + 2 as three of four 32-bit numbers. */
const colourAt = (i: number): Code => {
  const none = 0x80;
  const lanes = [i, i + 1, i + 2, none].flatMap((byte) => [byte, none, none, none]);
  return [v128.const(lanes), i8x16.swizzle];
};
/** The i-th of four 32-bit numbers, in all four places. */
const weightAt = (i: number): Code => [
  v128.const(fourTimes([4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3]).flat()),
  i8x16.swizzle,
];

/** The sums of the three colours side by side. */
const colour: RowSum = {
  channels: 3,
  begin: [half, i32x4.splat],
  add: (sum, pixels, weights, [twelve, four]) => [
    [pixels, v128.load, twelve.set, weights, v128.load, four.set],
    [0, 1, 2, 3].map((i) => addProduct(sum, [twelve.get, colourAt(3 * i)], [four.get, weightAt(i)])),
  ],
  total: (sum) => sum.get,
  store: v128.store32First,
};

/** Four sums, each of every fourth pixel. */
const grey: RowSum = {
  channels: 1,
  begin: [v128.const(Array(16).fill(0)), half, i32x4.replaceLane(0)],
  add: (sum, pixels, weights) =>
    addProduct(sum, [pixels, v128.load32Zero, i16x8.extendLowU, i32x4.extendLowU], [weights, v128.load]),
  total: (sum) => [
    [0, 1, 2, 3].map((lane) => [sum.get, i32x4.extractLane(lane)]),
    [i32.add, i32.add, i32.add, i32x4.splat],
  ],
  store: v128.store8First,
};

/**
 * One pass along the rows from `row` to `end`, `pitch` bytes apart. Each result is the sum of the pixels from the offset
 * on that `starts` holds for it, times the next `tapBytes` of weights.
 */
const alongRows = ({ channels, begin, add, total, store }: RowSum) =>
  kernelFunction(
    8,
    ["i32", "i32", "i32", "i32", "v128", "v128", "v128"],
    (row, end, pitch, starts, startsEnd, weights, tapBytes, out, start, p, w, wEnd, sum, ...values) => [
      repeatWhile(below(row, end), [
        [starts.get, start.set],
        [weights.get, w.set],
        repeatWhile(below(start, startsEnd), [
          [row.get, start.get, i32.load, i32.add, p.set],
          [w.get, tapBytes.get, i32.add, wEnd.set],
          [begin, sum.set],
          repeatWhile(below(w, wEnd), [
            add(sum, p.get, w.get, values),
            advance(p, i32.const(rowTaps * channels)),
            advance(w, i32.const(rowTaps * 4)),
          ]),
          [out.get, clipped(fourTimes(total(sum))), store],
          advance(out, i32.const(channels)),
          advance(start, i32.const(4)),
        ]),
        advance(row, pitch.get),
      ]),
    ],
  );

/**
 * One pass along the columns, sixteen bytes beside each other at a time, from `out` to `outEnd`, `width` bytes per row.
 * Each result is the sum of the rows from the offset on that `start` points to, times the next `tapBytes` of weights.
 */
const alongColumns = kernelFunction(
  7,
  ["i32", "i32", "i32", "i32", "i32", "v128", "v128", "v128", "v128", "v128", "v128", "v128"],
  (rows, width, start, weights, tapBytes, out, outEnd, base, x, p, w, wEnd, pixels, eight, weight, ...sums) => [
    repeatWhile(below(out, outEnd), [
      [start.get, i32.load, rows.get, i32.add, base.set],
      [weights.get, tapBytes.get, i32.add, wEnd.set],
      [i32.const(0), x.set],
      repeatWhile(below(x, width), [
        [base.get, x.get, i32.add, p.set],
        [weights.get, w.set],
        sums.map((sum) => [half, i32x4.splat, sum.set]),
        repeatWhile(below(w, wEnd), [
          [w.get, v128.load32Splat, weight.set],
          [p.get, v128.load, pixels.set],
          [i16x8.extendLowU, i16x8.extendHighU].map((extend, i) => [
            [pixels.get, extend, eight.set],
            addProduct(sums[2 * i], [eight.get, i32x4.extendLowU], weight.get),
            addProduct(sums[2 * i + 1], [eight.get, i32x4.extendHighU], weight.get),
          ]),
          advance(p, width.get),
          advance(w, i32.const(4)),
        ]),
        [out.get, x.get, i32.add, clipped(sums.map((sum) => sum.get)), v128.store],
        advance(x, i32.const(16)),
      ]),
      advance(start, i32.const(4)),
      [wEnd.get, weights.set],
      advance(out, width.get),
    ]),
  ],
);

/** Every `channels`-th byte from `p` to `end` through a table of 256 numbers of 32 bits each. */
const throughTable = kernelFunction(5, [], (p, end, channels, table, out) => [
  repeatWhile(below(p, end), [
    [out.get, table.get, p.get, i32.load8U, i32.const(2), i32.shl, i32.add, i32.load, i32.store],
    advance(out, i32.const(4)),
    advance(p, channels.get),
  ]),
]);

/** The loops, on a memory of their own. */
export interface PictureKernel {
  readonly memory: WebAssembly.Memory;
  colourRows(...args: number[]): void;
  greyRows(...args: number[]): void;
  alongColumns(...args: number[]): void;
  throughTable(...args: number[]): void;
}

let kernel: PictureKernel | undefined;

/** Compiled at the first picture. */
export function pictureKernel(): PictureKernel {
  if (!kernel) {
    const code = kernelModule({ colourRows: alongRows(colour), greyRows: alongRows(grey), alongColumns, throughTable });
    kernel = new WebAssembly.Instance(new WebAssembly.Module(code)).exports as unknown as PictureKernel;
  }
  return kernel;
}

const pageBytes = 1 << 16;

/** Addresses for things of so many bytes each, whatever lay there before. */
export function places({ memory }: PictureKernel, ...sizes: readonly number[]): number[] {
  let end = 0;
  const starts = sizes.map((bytes) => {
    const start = end;
    end = slack * Math.ceil((start + bytes + slack) / slack);
    return start;
  });
  const missing = end - memory.buffer.byteLength;
  if (missing > 0) memory.grow(Math.ceil(missing / pageBytes));
  return starts;
}
