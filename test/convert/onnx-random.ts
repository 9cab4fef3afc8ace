import type { OnnxModel } from "../../src/onnx/index.ts";
import { isFloating, type Rng, rng } from "../../src/tensor/index.ts";
import { Builder } from "./onnx-models.ts";

/*
 * Random networks made of the patterns that the rules for ONNX graphs are about, with every choice that their operators
 * leave: kernels, strides, dilations, uneven padding, groups, the order of operands.
 */

/** A value `[1, channels, height, width]`. */
interface Picture {
  readonly value: string;
  readonly channels: number;
  readonly size: readonly [height: number, width: number];
}

interface Axis {
  readonly kernel: number;
  readonly stride: number;
  readonly dilation: number;
  readonly begin: number;
  readonly end: number;
}

const INPUT: Picture = { value: "x", channels: 4, size: [6, 5] };

const reach = ({ kernel, dilation }: Axis): number => (kernel - 1) * dilation + 1;
const outSize = (size: number, axis: Axis): number =>
  Math.floor((size + axis.begin + axis.end - reach(axis)) / axis.stride) + 1;

/** Writes a network piece by piece. */
class Writer {
  readonly b: Builder;
  readonly random: Rng;

  constructor(seed: number) {
    this.b = new Builder(seed, [1, INPUT.channels, ...INPUT.size]);
    this.random = rng(seed, "onnx-random");
  }

  below = (n: number): number => this.random.below(n);
  pick = <T>(list: readonly T[]): T => list[this.below(list.length)];
  flip = (): boolean => this.below(2) === 1;

  /** Numbers that are far enough from zero to be divided by. */
  numbers = (shape: readonly number[]): string =>
    this.b.constant(shape, () => (0.5 + this.random.next()) * (this.flip() ? 1 : -1));

  private axes(size: readonly number[]): readonly [Axis, Axis] {
    const axis = (d: number): Axis => {
      const made = {
        kernel: 1 + this.below(3),
        stride: 1 + this.below(2),
        dilation: 1 + this.below(2),
        begin: this.below(3),
        end: this.below(3),
      };
      return outSize(d, made) > 0 ? made : { kernel: 1, stride: 1, dilation: 1, begin: 0, end: 0 };
    };
    return [axis(size[0]), axis(size[1])];
  }

  conv(
    { value, channels, size }: Picture,
    outputs: number,
    axes: readonly [Axis, Axis],
    { group = 1, bias = this.flip() }: { readonly group?: number; readonly bias?: boolean } = {},
  ): Picture {
    const kernel = axes.map((a) => a.kernel);
    const made = this.b.conv(value, [channels, outputs], kernel, {
      bias,
      group,
      strides: axes.map((a) => a.stride),
      dilations: axes.map((a) => a.dilation),
      pads: [...axes.map((a) => a.begin), ...axes.map((a) => a.end)],
    });
    return { value: made, channels: outputs, size: [outSize(size[0], axes[0]), outSize(size[1], axes[1])] };
  }

  /** A convolution of any geometry. */
  anyConv(x: Picture): Picture {
    const group = this.pick([1, 1, 2, x.channels]);
    const outputs = group > 2 ? group * this.pick([1, 2]) : this.pick([4, 4, 8]);
    return this.conv(x, outputs, this.axes(x.size), { group });
  }

  pointwise = (x: Picture, outputs: number, bias?: boolean): Picture =>
    this.conv(x, outputs, [still, still], { ...(bias !== undefined && { bias }) });

  norm = (x: Picture): Picture => ({ ...x, value: this.b.norm(x.value, x.channels) });

  /** A scale or shift by constants, by channel or for all. */
  arithmetic(x: Picture): Picture {
    const numbers = this.numbers(this.pick([[], [1], [x.channels, 1, 1], [1, x.channels, 1, 1]]));
    const operator = this.pick(["Add", "Sub", "Mul", "Div"]);
    const operands = operator !== "Div" && this.flip() ? [numbers, x.value] : [x.value, numbers];
    return { ...x, value: this.b.node(operator, operands) };
  }

  /** A branch that comes out as a k × k convolution with centred padding does. */
  branch(x: Picture, kernel: number, stride: number): Picture {
    const centred = (k: number, dilation = 1): Axis => {
      const p = ((k - 1) * dilation) / 2;
      return { kernel: k, stride, dilation, begin: p, end: p };
    };
    const axis = (): Axis => centred(this.pick([1, kernel]));
    const group = this.pick([1, 2, x.channels]);
    const ways: readonly (() => Picture)[] = [
      () => this.conv(x, x.channels, [axis(), axis()], { group }),
      () => this.norm(this.conv(x, x.channels, [axis(), axis()], { group, bias: false })),
      () => this.conv(this.pointwise(x, 8, false), x.channels, [axis(), axis()]),
      () => this.pointwise(this.conv(x, 8, [axis(), axis()]), x.channels),
      () => this.conv(x, x.channels, kernel === 5 ? [centred(3, 2), centred(3, 2)] : [axis(), axis()]),
      () => {
        const one = this.conv(x, x.channels, [still, still], { group, bias: false });
        const attrs = { kernel_shape: [kernel, kernel], strides: [stride, stride], count_include_pad: 1 };
        const p = (kernel - 1) / 2;
        const value = this.b.node("AveragePool", [one.value], { ...attrs, pads: [p, p, p, p] });
        return { ...one, value, size: [outSize(x.size[0], centred(kernel)), outSize(x.size[1], centred(kernel))] };
      },
      ...(stride === 1 ? [() => x, () => this.norm(x), () => this.arithmetic(x)] : []),
    ];
    return this.pick(ways)();
  }

  sum(x: Picture): Picture {
    const [kernel, stride] = [this.pick([3, 5]), this.pick([1, 1, 2])];
    const branches = Array.from({ length: 2 + this.below(3) }, () => this.branch(x, kernel, stride));
    const values = branches.map((y) => y.value);
    // A value that is only added to itself has no weights.
    if (values.every((v) => v === x.value)) return this.pointwise(x, x.channels);
    const value = this.flip()
      ? this.b.node("Sum", values)
      : values.reduce((a, c) => this.b.node(this.pick(["Add", "Sub"]), [a, c]));
    return { ...(branches.find((y) => y.value !== x.value) ?? x), value };
  }

  beside(x: Picture): Picture {
    const [axes, parts] = [this.axes(x.size), 2 + this.below(2)];
    const branches = Array.from({ length: parts }, () => this.conv(x, 2 + this.below(2) * 2, axes));
    const channels = branches.reduce((n, y) => n + y.channels, 0);
    const values = branches.map((y) => y.value);
    return { ...branches[0], channels, value: this.b.node("Concat", values, { axis: this.pick([1, -3]) }) };
  }

  padded(x: Picture): Picture {
    const [top, left, bottom, right] = [0, 1, 2, 3].map(() => this.below(3));
    const value = this.b.node("Pad", [x.value, this.b.ints([0, 0, top, left, 0, 0, bottom, right])]);
    return this.anyConv({ ...x, value, size: [x.size[0] + top + bottom, x.size[1] + left + right] });
  }

  cropped(x: Picture): Picture {
    if (Math.min(...x.size) < 4) return this.anyConv(x);
    const value = this.b.node("Slice", [
      x.value,
      this.b.ints([1]),
      this.b.ints([-1]),
      this.b.ints([this.pick([2, -2])]),
    ]);
    return this.anyConv({ ...x, value, size: [x.size[0] - 2, x.size[1]] });
  }

  transposed(x: Picture): Picture {
    const [stride, group] = [1 + this.below(2), this.pick([1, 2])];
    const weight = this.b.constant([x.channels, 4 / group, 2, 3]);
    const value = this.b.node("ConvTranspose", [x.value, weight], { strides: [stride, 1], group });
    return { value, channels: 4, size: [(x.size[0] - 1) * stride + 2, x.size[1] + 2] };
  }

  /** A norm behind two convolutions of different values, or in front of one of several that a convolution reads. */
  joined(x: Picture): Picture {
    const one = this.pointwise(x, 4);
    const active = { ...one, value: this.b.node("Relu", [one.value]) };
    const parts = this.flip()
      ? [this.pointwise(x, 4), this.pointwise(active, 4)]
      : [this.norm(active), { ...x, value: this.b.node("Relu", [x.value]) }];
    if (this.flip() && parts[0].channels === parts[1].channels)
      return this.norm({
        ...one,
        value: this.b.node(
          "Add",
          parts.map((p) => p.value),
        ),
      });
    const channels = parts[0].channels + parts[1].channels;
    const cat = {
      ...one,
      channels,
      value: this.b.node(
        "Concat",
        parts.map((p) => p.value),
        { axis: 1 },
      ),
    };
    return this.flip() ? this.norm(cat) : this.pointwise(cat, 4);
  }

  /** Products on the last axis, which is none of channels to a convolution, however many there are. */
  onLastAxis(x: Picture): Picture {
    const [height, width] = x.size;
    const wide = this.pick([width, x.channels, 2]);
    let value = this.b.node("MatMul", [x.value, this.b.constant([width, wide])]);
    if (this.flip())
      value = this.b.node(this.pick(["Add", "Mul"]), [value, this.numbers(this.pick([[wide], [1, wide], []]))]);
    if (this.flip()) return { ...x, value, size: [height, wide] };
    const narrow = 2 + this.below(2);
    return { ...x, value: this.b.node("MatMul", [value, this.b.constant([wide, narrow])]), size: [height, narrow] };
  }

  /** Numbers that are none of channels, although there may be as many. */
  byPixel(x: Picture): Picture {
    const [height, width] = x.size;
    const shape = this.pick([[width], [height, 1], [1, 1, 1, width], [height, width], [x.channels, height, width]]);
    return { ...x, value: this.b.node(this.pick(["Add", "Mul", "Sub"]), [x.value, this.numbers(shape)]) };
  }

  /** One value in two places of a node, and sums that repeat a smaller branch. */
  twice(x: Picture): Picture {
    const y = this.pointwise(x, 4);
    const ways: readonly (() => Picture)[] = [
      () => ({ ...y, value: this.b.node("Add", [y.value, y.value]) }),
      () => ({ ...y, value: this.b.node("Mul", [y.value, y.value]) }),
      () => ({ ...y, channels: 8, value: this.b.node("Concat", [y.value, y.value], { axis: 1 }) }),
      () => ({ ...x, value: this.b.node("Add", [x.value, this.pointwise(x, 1).value]) }),
      () => {
        const pooled = this.b.node("GlobalAveragePool", [y.value]);
        return {
          ...y,
          value: this.b.node("Add", [
            y.value,
            this.conv({ ...y, value: pooled, size: [1, 1] }, 4, [still, still]).value,
          ]),
        };
      },
    ];
    return this.pick(ways)();
  }

  /** Two convolutions with one weight. */
  shared(x: Picture): Picture {
    const weight = this.b.constant([4, x.channels, 1, 1]);
    const [a, b] = [0, 1].map(() => this.norm({ ...x, channels: 4, value: this.b.node("Conv", [x.value, weight]) }));
    return { ...a, value: this.b.node("Add", [a.value, this.b.node("Relu", [b.value])]) };
  }

  /** A transposed convolution of any geometry between ones of one pixel. */
  spread(x: Picture): Picture {
    const [stride, dilation] = [1 + this.below(3), 1 + this.below(2)];
    const attrs = {
      strides: [stride, 1],
      dilations: [dilation, 1],
      pads: [this.below(2), 0, this.below(2), 1],
      output_padding: [this.below(stride), 0],
    };
    const before = this.flip() ? this.pointwise(x, 4, this.flip()) : this.norm(x);
    const ups = [0, 1].map(() =>
      this.b.node("ConvTranspose", [before.value, this.b.constant([before.channels, 4, 3, 3])], attrs),
    );
    const value = this.flip() ? this.b.node("Add", ups) : ups[0];
    const height =
      (x.size[0] - 1) * stride + 2 * dilation + 1 + attrs.output_padding[0] - attrs.pads[0] - attrs.pads[2];
    const up = { value, channels: 4, size: [height, x.size[1] + 1] as const };
    return this.flip() ? this.pointwise(up, 2) : this.norm(up);
  }

  /** A layer over all pixels beside a convolution that keeps their number, as in RepMLP. */
  connected(x: Picture): Picture {
    const all = x.channels * x.size[0] * x.size[1];
    const flat = this.b.node("Flatten", [x.value]);
    let value = this.b.node("Gemm", [flat, this.b.constant([all, all]), this.b.constant([all])]);
    if (this.flip()) value = this.b.norm(value, all);
    value = this.b.node("Reshape", [value, this.b.ints([this.pick([1, -1]), x.channels, ...x.size])]);
    const axis = (): Axis => {
      const [kernel, dilation] = [1 + this.below(3), 1 + this.below(2)];
      const begin = this.below((kernel - 1) * dilation + 1);
      return { kernel, stride: 1, dilation, begin, end: (kernel - 1) * dilation - begin };
    };
    for (let branches = 1 + this.below(2); branches > 0; branches--) {
      const group = this.pick([1, 2, x.channels]);
      const branch = this.conv(x, x.channels, [axis(), axis()], { group });
      const other = this.flip() ? this.norm(branch) : branch;
      value = this.b.node("Add", this.flip() ? [value, other.value] : [other.value, value]);
    }
    return { ...x, value };
  }

  /** One of {@link PATTERNS} patterns behind a value. */
  step(x: Picture, pattern: number): Picture {
    const patterns: readonly ((y: Picture) => Picture)[] = [
      (y) => this.anyConv(y),
      (y) => this.norm(y),
      (y) => this.arithmetic(y),
      (y) => this.sum(y),
      (y) => this.beside(y),
      (y) => this.pointwise(this.anyConv(this.pointwise(y, 8)), 4),
      (y) => this.padded(y),
      (y) => this.cropped(y),
      (y) => this.transposed(y),
      (y) => this.joined(y),
      (y) => ({ ...y, value: this.b.node("Relu", [y.value]) }),
      (y) => ({ ...y, value: this.b.node(this.pick(["Identity", "Dropout"]), [y.value]) }),
      (y) => this.onLastAxis(y),
      (y) => this.byPixel(y),
      (y) => this.twice(y),
      (y) => this.shared(y),
      (y) => this.spread(y),
      (y) => this.connected(y),
    ];
    // What has grown too much is made smaller first.
    const input = x.channels > 8 || x.size[0] * x.size[1] > 120 ? this.conv(x, 4, [halved, halved]) : x;
    return patterns[pattern](input);
  }

  /** Fully connected layers at the end. */
  head(x: Picture): string {
    const pooled = this.flip();
    const inputs = pooled ? x.channels : x.channels * x.size[0] * x.size[1];
    const value = pooled ? this.b.node("GlobalAveragePool", [x.value]) : x.value;
    let flat = this.b.node("Flatten", [value]);
    const hidden = 2 + this.below(6);
    const first = this.flip() ? { weight: [hidden, inputs], transB: 1 } : { weight: [inputs, hidden], transB: 0 };
    flat = this.b.node("Gemm", [flat, this.b.constant(first.weight), this.b.constant([hidden])], {
      transB: first.transB,
      alpha: { float: this.pick([1, 0.5]) },
      beta: { float: this.pick([1, 2]) },
    });
    if (this.flip()) flat = this.b.norm(flat, hidden);
    if (this.flip()) flat = this.b.node("Gemm", [flat, this.b.constant([hidden, 3])]);
    return this.flip() ? this.b.node("Mul", [flat, this.numbers([])]) : flat;
  }
}

const still: Axis = { kernel: 1, stride: 1, dilation: 1, begin: 0, end: 0 };
const halved: Axis = { kernel: 2, stride: 2, dilation: 1, begin: 0, end: 1 };

/** Number of patterns. */
export const PATTERNS = 18;

/** A network of some patterns, one after the other, with its weights in float64. */
export function randomNetwork(seed: number, patterns: readonly number[], head: boolean): OnnxModel {
  const writer = new Writer(seed);
  const last = patterns.reduce((x, pattern) => writer.step(x, pattern), INPUT);
  const output = head ? writer.head(last) : last.value;
  return inFloat64(writer.b.model([output], head ? 2 : 4));
}

/** A model with its weights in float64. */
export function inFloat64(model: OnnxModel): OnnxModel {
  const initializers = [...model.initializers].map(([name, source]) => {
    const t = source.readSync();
    return [name, isFloating(t.dtype) ? t.cast("float64") : t] as const;
  });
  return { ...model, initializers: new Map(initializers) };
}
