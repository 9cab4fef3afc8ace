import {
  bestInPython,
  type Case,
  type Context,
  type Figure,
  growth,
  inNode,
  own,
  quotient,
  timesFaster,
} from "../case.ts";
import type { Outcome } from "../stats.ts";
import { convUnitCases } from "./conv-unit.ts";

const net = "RepMLP-Res50-light-224";
const pureMlp = "RepMLP-CIFAR10-pure-MLP";
const unmerged = "ONNX Runtime, unmerged";
const plain = "ONNX Runtime, plain export";
const gemm = "limit: matrix products";
const memory = "limit: reading memory";

const batches = [
  { batch: 1, limits: { floor: 2.5, aim: 3.5 } },
  { batch: 8, limits: { floor: 2, aim: 2.2 } },
];

const percent = (name: string, value: Figure["value"], limits: Pick<Figure, "floor" | "aim">): Figure => ({
  name,
  unit: "%",
  value: (outcomes) => {
    const part = value(outcomes);
    return part === undefined ? undefined : 100 * part;
  },
  ...limits,
});

/** Seconds that the multiply-adds take at the best rate of a matrix product. */
const atGemmPeak = (ours?: Outcome, limit?: Outcome): number | undefined =>
  ours && quotient(ours.facts.flops / 1e9, limit?.facts.gflops);

/** Seconds that reading the weights once takes. */
const readingWeights = (ours?: Outcome, limit?: Outcome): number | undefined =>
  ours && quotient(ours.facts.weightBytes / 1e9, limit?.facts.gbPerSecond);

const figuresOf: Readonly<Record<number, readonly Figure[]>> = {
  1: [
    timesFaster(unmerged, { floor: 1.2, aim: 1.5 }),
    percent(
      "larger of matrix work and reading the weights ÷ ours",
      (o) => {
        const floors = [atGemmPeak(o.get(own), o.get(gemm)), readingWeights(o.get(own), o.get(memory))];
        return floors.includes(undefined) ? undefined : quotient(Math.max(...(floors as number[])), o.get(own)?.median);
      },
      { floor: 75, aim: 90 },
    ),
  ],
  8: [
    timesFaster(unmerged),
    percent(
      "of the machine's matrix product rate",
      (o) => quotient(atGemmPeak(o.get(own), o.get(gemm)), o.get(own)?.median),
      {
        floor: 85,
        aim: 95,
      },
    ),
  ],
};

export const inferCases = (context: Context): readonly Case[] => {
  const { threads } = context;
  const deployedMlp = { net: pureMlp, batch: 1, threads, form: "deploy" };
  const mlpInPython = bestInPython(context, "infer", deployedMlp);
  const sizes = [1, 2, 4, 8, 16].map((size) => ({ size, contestant: `${own}, batch ${size}` }));
  return [
    ...batches.map(({ batch, limits }): Case => {
      const options = { net, batch, threads };
      const items = { count: batch, unit: "images" };
      const pytorch = bestInPython(context, "infer", { ...options, form: "deploy" }, { items });
      return {
        name: `infer/light-224-b${batch}`,
        about: `${net}, deploy form, batch ${batch}`,
        contestants: [
          inNode(own, "infer", { ...options, form: "deploy" }, items),
          ...pytorch.contestants,
          inNode(unmerged, "infer", { ...options, form: "train" }, items),
          inNode(plain, "plain", options, items),
          inNode(gemm, "gemm", { threads }),
          inNode(memory, "bandwidth", { threads }),
        ],
        figures: [...pytorch.figures(limits), timesFaster(plain), ...figuresOf[batch]],
      };
    }),
    {
      name: "infer/pure-mlp-b1",
      about: `${pureMlp}, deploy form, batch 1`,
      contestants: [
        inNode(own, "infer", deployedMlp, { count: 1, unit: "images" }),
        ...mlpInPython.contestants,
        inNode(unmerged, "infer", { net: pureMlp, batch: 1, threads, form: "train" }),
      ],
      figures: [...mlpInPython.figures(), timesFaster(unmerged, { floor: 1.2, aim: 1.5 })],
    },
    ...convUnitCases(context, "infer"),
    {
      name: "infer/growth-batch",
      about: `${net}, deploy form, by batch size`,
      sizes: true,
      contestants: sizes.map(({ size, contestant }) =>
        inNode(contestant, "infer", { net, batch: size, form: "deploy", threads }, { count: size, unit: "images" }),
      ),
      figures: [
        growth(
          "our time grows as batch to the power of",
          sizes.map(({ size, contestant }) => ({ size, contestant })),
        ),
      ],
    },
  ];
};
