import type { Builder } from "./onnx-models.ts";

/** The output of a small network whose input is `x`, six channels of 9 × 8 pixels. */
export type Network = (b: Builder) => string;

export const same = { pads: [1, 1, 1, 1] };

/** 0.25 on the border of four channels of 11 × 10 pixels, and another number inside. */
export function bordered(b: Builder, inside: number): string {
  let i = 0;
  return b.constant([1, 4, 11, 10], () => {
    const [x, y] = [i % 10, Math.floor(i++ / 10) % 11];
    return x === 0 || x === 9 || y === 0 || y === 10 ? 0.25 : inside;
  });
}

/** Networks that are merged: by name, what is built, and what is left. */
export const merging: readonly [string, Network, Record<string, number>][] = [
  ["a norm after a convolution", (b) => b.norm(b.conv("x", [6, 4], [3, 3], same), 4), { Conv: 1 }],
  ["a norm before one without padding", (b) => b.conv(b.norm("x", 6), [6, 4], [3, 3]), { Conv: 1 }],
  [
    "a scale before one with padding",
    (b) => b.conv(b.node("Mul", ["x", b.constant([6, 1, 1])]), [6, 4], [3, 3], same),
    { Conv: 1 },
  ],
  [
    "numbers after a convolution",
    (b) => {
      const scaled = b.node("Mul", [b.conv("x", [6, 4], [3, 3], { ...same, bias: true }), b.constant([])]);
      const shifted = b.node("Sub", [b.constant([4, 1, 1]), scaled]);
      return b.node("Div", [shifted, b.constant([1, 4, 1, 1], () => 2)]);
    },
    { Conv: 1 },
  ],
  [
    "RepVGG",
    (b) => {
      const sum = b.node("Add", [b.norm(b.conv("x", [6, 6], [3, 3], same), 6), b.norm(b.conv("x", [6, 6], [1, 1]), 6)]);
      return b.node("Add", [sum, b.norm("x", 6)]);
    },
    { Conv: 1 },
  ],
  [
    "kernels of other sizes, with a stride",
    (b) =>
      b.node("Sum", [
        b.conv("x", [6, 4], [5, 5], { pads: [2, 2, 2, 2], strides: [2, 2] }),
        b.conv("x", [6, 4], [1, 3], { pads: [0, 1, 0, 1], strides: [2, 2], bias: true }),
        b.conv("x", [6, 4], [3, 1], { pads: [1, 0, 1, 0], strides: [2, 2] }),
        b.conv("x", [6, 4], [3, 3], { pads: [2, 2, 2, 2], strides: [2, 2], dilations: [2, 2] }),
      ]),
    { Conv: 1 },
  ],
  [
    "even kernels, whose padding differs",
    (b) => b.node("Add", [b.conv("x", [6, 4], [2, 2], { pads: [1, 0, 0, 1] }), b.conv("x", [6, 4], [3, 3], same)]),
    { Conv: 1 },
  ],
  [
    "groups",
    (b) =>
      b.node("Add", [
        b.conv("x", [6, 6], [3, 3], { ...same, group: 2 }),
        b.conv("x", [6, 6], [3, 3], { ...same, group: 6, bias: true }),
      ]),
    { Conv: 1 },
  ],
  [
    "a residual around a depthwise convolution",
    (b) => b.node("Add", ["x", b.conv("x", [6, 6], [3, 3], { ...same, group: 6 })]),
    { Conv: 1 },
  ],
  ["a difference", (b) => b.node("Sub", ["x", b.conv("x", [6, 6], [3, 3], same)]), { Conv: 1 }],
  ["1 × 1 and then k × k", (b) => b.conv(b.conv("x", [6, 12], [1, 1]), [12, 4], [3, 3], same), { Conv: 1 }],
  [
    "k × k and then 1 × 1",
    (b) => b.conv(b.conv("x", [6, 12], [3, 3], { ...same, bias: true }), [12, 4], [1, 1], { bias: true }),
    { Conv: 1 },
  ],
  [
    "a bottleneck without activations",
    (b) => {
      const wide = b.conv(b.conv("x", [6, 24], [1, 1], { bias: true }), [24, 24], [3, 3]);
      return b.conv(wide, [24, 6], [1, 1], { bias: true });
    },
    { Conv: 1 },
  ],
  [
    "padding with what zeros become",
    (b) => {
      const one = b.node("Conv", ["x", b.constant([4, 6, 1, 1]), b.constant([4], () => 0.25)]);
      const padded = b.node("Pad", [one, b.ints([0, 0, 1, 1, 0, 0, 1, 1]), b.constant([], () => 0.25)]);
      return b.node("Add", [b.conv(padded, [4, 5], [3, 3]), b.conv("x", [6, 5], [3, 3], same)]);
    },
    { Conv: 1 },
  ],
  [
    "a border that is added",
    (b) => {
      const one = b.node("Conv", ["x", b.constant([4, 6, 1, 1]), b.constant([4], () => 0.25)]);
      const padded = b.node("Pad", [one, b.ints([0, 0, 1, 1, 0, 0, 1, 1])]);
      return b.node("Add", [
        b.conv(b.node("Add", [bordered(b, 0), padded]), [4, 5], [3, 3]),
        b.conv("x", [6, 5], [3, 3], same),
      ]);
    },
    { Conv: 1 },
  ],
  [
    "padding of the input",
    (b) => b.conv(b.node("Pad", ["x", b.ints([0, 0, 1, 0, 0, 0, 1, 2])]), [6, 4], [3, 3]),
    { Conv: 1 },
  ],
  [
    "average pooling beside a convolution",
    (b) => {
      const pooled = b.node("AveragePool", ["x"], { kernel_shape: [3, 3], pads: [1, 1, 1, 1], count_include_pad: 1 });
      return b.node("Add", [b.norm(pooled, 6), b.conv("x", [6, 6], [3, 3], same)]);
    },
    { Conv: 1 },
  ],
  [
    "outputs side by side, and 1 × 1 behind them",
    (b) => {
      const branch = b.conv("x", [6, 6], [3, 3], same);
      const cat = b.node("Concat", [branch, b.norm(branch, 6), b.conv("x", [6, 6], [1, 1])], { axis: 1 });
      return b.conv(cat, [18, 6], [1, 1], { bias: true });
    },
    { Conv: 1 },
  ],
  [
    "outputs side by side",
    (b) => {
      const branches = [b.conv("x", [6, 4], [3, 3], same), b.conv("x", [6, 2], [3, 3], { ...same, bias: true })];
      return b.node("Concat", branches, { axis: -3 });
    },
    { Conv: 1 },
  ],
  [
    "a crop before a branch",
    (b) => {
      const cut = b.node("Slice", ["x", b.ints([1]), b.ints([-1]), b.ints([3])]);
      return b.node("Add", [b.conv("x", [6, 4], [3, 3]), b.conv(cut, [6, 4], [3, 1])]);
    },
    { Conv: 1 },
  ],
  [
    "a norm after a transposed convolution",
    (b) => b.norm(b.node("ConvTranspose", ["x", b.constant([6, 2, 3, 3])], { group: 2, strides: [2, 2] }), 4),
    { ConvTranspose: 1 },
  ],
  [
    "a norm after automatic padding",
    (b) => b.norm(b.node("Conv", ["x", b.constant([4, 6, 3, 3])], { auto_pad: "SAME_UPPER", strides: [2, 2] }), 4),
    { Conv: 1 },
  ],
  [
    "a layer scale on the last axis",
    (b) => {
      const layer = b.node("Add", [b.node("MatMul", ["x", b.constant([8, 5])]), b.constant([5])]);
      return b.node("Mul", [layer, b.constant([5])]);
    },
    { MatMul: 1, Add: 1 },
  ],
  [
    "a product in two steps beside one in one",
    (b) => {
      const low = b.node("MatMul", [b.node("MatMul", ["x", b.constant([8, 2])]), b.constant([2, 8])]);
      return b.node("Add", [b.node("MatMul", ["x", b.constant([8, 8])]), low]);
    },
    { MatMul: 1 },
  ],
  [
    "a norm through global pooling and flattening",
    (b) => {
      const flat = b.node("Flatten", [b.node("GlobalAveragePool", [b.norm("x", 6)])]);
      return b.node("Gemm", [flat, b.constant([6, 5]), b.constant([5])], { alpha: { float: 0.5 } });
    },
    { GlobalAveragePool: 1, Flatten: 1, Gemm: 1 },
  ],
  [
    "a norm before all pixels are connected",
    (b) => b.node("Gemm", [b.node("Flatten", [b.norm("x", 6)]), b.constant([5, 6 * 72])], { transB: 1 }),
    { Flatten: 1, Gemm: 1 },
  ],
  [
    "a convolution beside a layer over all pixels",
    (b) => {
      const flat = b.node("Reshape", ["x", b.ints([-1, 432, 1, 1])]);
      const layer = b.node("Conv", [flat, b.constant([432, 216, 1, 1])], { group: 2 });
      const norm = b.norm(b.node("Reshape", [layer, b.ints([-1, 432])]), 432);
      const conv = b.norm(b.conv("x", [6, 6], [3, 3], { ...same, group: 2 }), 6);
      return b.node("Add", [b.node("Reshape", [norm, b.ints([2, 6, 9, 8])]), conv]);
    },
    { Conv: 1, Reshape: 3 },
  ],
  [
    "a dilated convolution and an even one beside a layer over all pixels",
    (b) => {
      const wide = b.node("Gemm", [b.node("Flatten", ["x"]), b.constant([432, 432])], { transB: 1 });
      const wider = b.conv("x", [6, 6], [3, 3], { pads: [2, 2, 2, 2], dilations: [2, 2], bias: true });
      const even = b.conv("x", [6, 6], [2, 4], { pads: [1, 1, 0, 2], group: 3 });
      const sum = b.node("Add", [b.node("Reshape", [wide, b.ints([2, 6, 9, 8])]), wider]);
      return b.node("Add", [even, sum]);
    },
    { Flatten: 1, Gemm: 1, Reshape: 1 },
  ],
  [
    "fully connected layers with a norm between them",
    (b) => {
      const first = b.node("Gemm", [b.node("Flatten", ["x"]), b.constant([432, 5]), b.constant([5])]);
      return b.node("Gemm", [b.norm(first, 5), b.constant([3, 5]), b.constant([3])], { transB: 1 });
    },
    { Flatten: 1, Gemm: 1 },
  ],
  [
    "a norm after a product",
    (b) => b.norm(b.node("MatMul", [b.node("Flatten", ["x"]), b.constant([432, 5])]), 5),
    { Flatten: 1, Gemm: 1 },
  ],
  [
    "convolutions along one axis",
    (b) => {
      const line = b.node("Reshape", ["x", b.ints([2, 6, 72])]);
      const branches = [b.norm(b.conv(line, [6, 4], [3], { pads: [1, 1] }), 4), b.conv(line, [6, 4], [1])];
      return b.node("Reshape", [b.node("Add", branches), b.ints([2, 4, 9, 8])]);
    },
    { Reshape: 2, Conv: 1 },
  ],
  [
    "a norm after a convolution along three axes",
    (b) => {
      const cube = b.node("Reshape", ["x", b.ints([2, 6, 9, 4, 2])]);
      const conv = b.conv(cube, [6, 4], [3, 3, 1], { pads: [1, 1, 0, 1, 1, 0] });
      return b.node("Reshape", [b.norm(conv, 4), b.ints([2, 4, 9, 8])]);
    },
    { Reshape: 2, Conv: 1 },
  ],
  [
    "transposed convolutions added up, between 1 × 1",
    (b) => {
      const before = b.conv("x", [6, 12], [1, 1]);
      const up = [0, 1].map(() => b.node("ConvTranspose", [before, b.constant([12, 8, 2, 2])], { strides: [2, 2] }));
      return b.conv(b.node("Add", up), [8, 3], [1, 1], { bias: true });
    },
    { ConvTranspose: 1 },
  ],
  [
    "a large kernel with dilated ones",
    (b) =>
      [
        b.conv("x", [6, 6], [3, 3], { group: 6, pads: [2, 2, 2, 2], dilations: [2, 2] }),
        b.conv("x", [6, 6], [3, 3], { group: 6, pads: [3, 3, 3, 3], dilations: [3, 3] }),
      ].reduce(
        (sum, branch) => b.node("Add", [sum, b.norm(branch, 6)]),
        b.norm(b.conv("x", [6, 6], [7, 7], { group: 6, pads: [3, 3, 3, 3] }), 6),
      ),
    { Conv: 1 },
  ],
  [
    "numbers before a convolution",
    (b) => {
      const shifted = b.node("Sub", ["x", b.constant([6, 1, 1])]);
      return b.conv(b.node("Div", [shifted, b.constant([1, 6, 1, 1], () => 4)]), [6, 4], [3, 3]);
    },
    { Conv: 1 },
  ],
  [
    "scales and shifts before padding, of which one shift stays",
    (b) => {
      const scaled = b.node("Mul", [b.constant([]), b.node("Relu", ["x"])]);
      return b.conv(b.node("Add", [scaled, b.constant([6, 1, 1])]), [6, 4], [3, 3], same);
    },
    { Relu: 1, Add: 1, Conv: 1 },
  ],
  [
    "a norm after halves of different origin",
    (b) => {
      const active = b.node("Relu", [b.conv("x", [6, 4], [3, 3], same)]);
      const halves = [b.conv(active, [4, 3], [1, 1]), b.conv("x", [6, 5], [1, 1], { bias: true })];
      return b.norm(b.node("Concat", halves, { axis: 1 }), 8);
    },
    { Conv: 3, Relu: 1, Concat: 1 },
  ],
  [
    "a norm after a sum of layers of different values",
    (b) => {
      const sides = [
        b.conv(b.node("Relu", ["x"]), [6, 4], [1, 1]),
        b.conv("x", [6, 4], [3, 3], { ...same, bias: true }),
      ];
      return b.norm(b.node("Sub", sides), 4);
    },
    { Relu: 1, Conv: 2, Sub: 1 },
  ],
  [
    "a norm before one of several inputs",
    (b) => {
      const inputs = [
        b.node("Relu", ["x"]),
        b.node("Mul", [b.constant([6, 1, 1]), b.norm(b.node("Sigmoid", ["x"]), 6)]),
      ];
      return b.conv(b.node("Concat", inputs, { axis: 1 }), [12, 4], [3, 3]);
    },
    { Relu: 1, Sigmoid: 1, Concat: 1, Conv: 1 },
  ],
  [
    "a number, the constant first, through flattening",
    (b) => {
      const scaled = b.node("Mul", [b.constant([1, 6, 1, 1]), "x"]);
      return b.node("Gemm", [b.node("Flatten", [scaled]), b.constant([5, 432])], { transB: 1 });
    },
    { Flatten: 1, Gemm: 1 },
  ],
  [
    "one value twice before a transposed convolution of groups",
    (b) => {
      const twice = b.node("Concat", ["x", "x"], { axis: 1 });
      return b.node("ConvTranspose", [twice, b.constant([12, 2, 2, 3])], { group: 2 });
    },
    { ConvTranspose: 1 },
  ],
  [
    "products on the last axis and a number behind them",
    (b) => {
      const first = b.node("Add", [b.node("MatMul", ["x", b.constant([8, 4])]), b.constant([4])]);
      return b.node("Sub", [b.node("MatMul", [first, b.constant([4, 3])]), b.constant([])]);
    },
    { MatMul: 1, Add: 1 },
  ],
  [
    "shape arithmetic that is constant",
    (b) => {
      const batch = b.node("Gather", [b.node("Shape", ["x"]), b.ints([0])]);
      const shape = b.node("Concat", [batch, b.ints([8]), b.ints([9]), b.ints([4])], { axis: 0 });
      return b.node("Reshape", [b.norm(b.conv("x", [6, 4], [1, 1]), 4), shape]);
    },
    { Conv: 1, Reshape: 1 },
  ],
  [
    "the branches of YOLOv9's RepConvN",
    (b) => {
      const branches = [b.conv("x", [6, 8], [3, 3], same), b.conv("x", [6, 8], [1, 1])].map((c) => b.norm(c, 8));
      const sum = b.node("Add", branches);
      return b.node("Mul", [sum, b.node("Sigmoid", [sum])]);
    },
    { Conv: 1, Sigmoid: 1, Mul: 1 },
  ],
  [
    "a block of RepViT, as in EdgeSAM",
    (b) => {
      const deep = { ...same, group: 6 };
      const branches = b.node("Add", [
        b.norm(b.conv("x", [6, 6], [3, 3], deep), 6),
        b.conv("x", [6, 6], [1, 1], { group: 6, bias: true }),
      ]);
      const mixed = b.norm(b.node("Add", [branches, "x"]), 6);
      const wide = b.node("Erf", [b.norm(b.conv(mixed, [6, 12], [1, 1]), 12)]);
      return b.node("Add", [mixed, b.norm(b.conv(wide, [12, 6], [1, 1]), 6)]);
    },
    { Conv: 3, Erf: 1, Add: 1 },
  ],
  [
    "LearnableRepLayer and its scales and shifts, as in OpenOCR and PP-OCRv4",
    (b) => {
      const deep = { ...same, group: 6 };
      const branches = [
        b.norm("x", 6),
        b.norm(b.conv("x", [6, 6], [1, 1], { group: 6 }), 6),
        ...[1, 2, 3, 4].map(() => b.norm(b.conv("x", [6, 6], [3, 3], deep), 6)),
      ];
      const affine = (value: string): string =>
        b.node("Add", [b.node("Mul", [b.constant([1]), value]), b.constant([1])]);
      const active = affine(b.node("HardSwish", [affine(branches.reduce((x, y) => b.node("Add", [x, y])))]));
      return b.norm(b.conv(active, [6, 4], [1, 1]), 4);
    },
    { Conv: 2, HardSwish: 1 },
  ],
  [
    "RepC3, as in RT-DETR",
    (b) => {
      const unit = (value: string, channels: number): string =>
        b.node("Relu", [b.norm(b.conv(value, [channels, 4], [1, 1]), 4)]);
      const first = unit("x", 6);
      const rep = b.node("Relu", [
        b.node("Add", [b.norm(b.conv(first, [4, 4], [3, 3], same), 4), b.norm(b.conv(first, [4, 4], [1, 1]), 4)]),
      ]);
      return b.node("Add", [rep, unit("x", 6)]);
    },
    { Conv: 3, Relu: 3, Add: 1 },
  ],
];
