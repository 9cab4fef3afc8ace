import {
  bestInPython,
  type Case,
  type Contestant,
  type Context,
  type Figure,
  growth,
  inChromium,
  inNode,
  inPython,
  own,
  quotient,
  timesFaster,
} from "../case.ts";
import { convUnitCases } from "./conv-unit.ts";

type Limits = Pick<Figure, "floor" | "aim">;

interface StepCase {
  readonly name: string;
  readonly about: string;
  readonly net: string;
  readonly batch: number;
  readonly channels?: number | readonly number[];
  readonly limits: Limits;
  readonly large?: boolean;
  /** Whether it has grouped convolutions; default yes. */
  readonly grouped?: boolean;
  /** Whether our peak of memory is compared with that of PyTorch as the original writes it. */
  readonly memory?: boolean;
}

const light = "RepMLP-Res50-light-224";
const pureMlp = "RepMLP-CIFAR10-pure-MLP";

const peakMemory = (original: string): Figure => ({
  name: "our peak memory ÷ PyTorch's",
  unit: "×",
  value: (outcomes) => quotient(outcomes.get(own)?.peakMb, outcomes.get(original)?.peakMb),
  floor: 1.3,
  aim: 0.8,
  smaller: true,
});

const steps: readonly StepCase[] = [
  {
    name: "light-224-b8",
    about: `${light}, batch 8`,
    net: light,
    batch: 8,
    limits: { floor: 1.25, aim: 1.5 },
    memory: true,
  },
  {
    name: "light-224-b32",
    about: `${light}, batch 32`,
    net: light,
    batch: 32,
    limits: { floor: 1.25, aim: 1.5 },
    large: true,
  },
  ...[64, 128].map((channels) => ({
    name: `repmlp-block-${channels}`,
    about: `one RepMLP block, ${channels} channels, 14×14, partition 7, 4 groups, kernels 1 3 5, batch 32`,
    net: "repmlp-block",
    batch: 32,
    channels,
    limits: { floor: 1.5, aim: 2 },
  })),
  {
    name: "bottleneck-224-b8",
    about: "RepMLP-Res50-bottleneck-224, batch 8",
    net: "RepMLP-Res50-bottleneck-224",
    batch: 8,
    limits: { floor: 1, aim: 1.25 },
  },
  {
    name: "resnet50-b8",
    about: "plain ResNet-50, batch 8",
    net: "ResNet-50-base-224",
    batch: 8,
    grouped: false,
    limits: { floor: 0.8, aim: 1 },
  },
  {
    name: "cifar-pure-mlp-b128",
    about: `${pureMlp}, batch 128`,
    net: pureMlp,
    batch: 128,
    limits: { floor: 1.3, aim: 2 },
  },
];

const stepCase = (context: Context, one: StepCase): Case => {
  const { name, about, limits, large = false, grouped, memory = false, ...options } = one;
  const given = { ...options, threads: context.threads };
  const items = { count: options.batch, unit: "images" };
  const pytorch = bestInPython(context, "train", given, { items, grouped });
  return {
    name: `train/${name}`,
    about: `training step, ${about}`,
    contestants: [inNode(own, "train", given, items), ...pytorch.contestants],
    figures: [...pytorch.figures(limits), ...(memory ? [peakMemory(pytorch.original)] : [])],
    large,
  };
};

/** Sizes of one network side by side; ours and PyTorch's all take turns. */
function growthCase(
  context: Context,
  name: string,
  about: string,
  axis: string,
  sizes: readonly { readonly size: number; readonly options: object; readonly batch: number }[],
): Case {
  const all = sizes.map(({ size, options, batch }) => {
    const given = { net: pureMlp, batch, ...options, threads: context.threads };
    const items = { count: batch, unit: "images" };
    const [ours, theirs] = [`${own}, ${axis} ${size}`, `PyTorch, ${axis} ${size}`];
    const rivals = inPython(context, "train", given, items).map((c): Contestant => ({ ...c, name: theirs }));
    return { size, ours, theirs, contestants: [inNode(ours, "train", given, items), ...rivals] };
  });
  return {
    name: `train/${name}`,
    about,
    sizes: true,
    contestants: all.flatMap((c) => c.contestants),
    figures: [
      growth(
        `our time grows as ${axis} to the power of`,
        all.map(({ size, ours }) => ({ size, contestant: ours })),
      ),
      growth(
        `PyTorch's time grows as ${axis} to the power of`,
        all.map(({ size, theirs }) => ({ size, contestant: theirs })),
      ),
      ...all.map((c) => timesFaster(c.theirs, {}, c.ours)),
    ],
  };
}

export const trainCases = (context: Context): readonly Case[] => {
  const { threads } = context;
  const block = { net: "repmlp-block", batch: 32, channels: 64, threads };
  const page = "repmlp in Chromium";
  return [
    ...steps.map((step) => stepCase(context, step)),
    ...convUnitCases(context, "train"),
    {
      name: "train/repmlp-block-chromium",
      about: "training step, the RepMLP block of 64 channels, WebAssembly in Chromium and native",
      contestants: [inNode(own, "train", block), ...inChromium(context, page, "train", block)],
      figures: [
        {
          name: "Chromium ÷ native",
          unit: "×",
          value: (outcomes) => quotient(outcomes.get(page)?.median, outcomes.get(own)?.median),
          floor: 3,
          aim: 2,
          smaller: true,
        },
      ],
    },
    {
      name: "train/build-light-224",
      about: `tracing, gradients, lowering and session of the training step, ${light}, batch 8`,
      contestants: [inNode(own, "buildStep", { net: light, batch: 8, threads })],
      figures: [
        { name: "graph and session", unit: "s", value: (o) => o.get(own)?.median, floor: 5, aim: 2, smaller: true },
      ],
    },
    growthCase(
      context,
      "growth-batch",
      `training step, ${pureMlp}, by batch size`,
      "batch",
      // One picture is too few for the batch norms of the last stage.
      [2, 4, 8, 16].map((size) => ({ size, options: {}, batch: size })),
    ),
    growthCase(
      context,
      "growth-channels",
      `training step, ${pureMlp}, batch 16, 16 32 64 channels times ½, 1, 2`,
      "width",
      // Four times as wide, ours and PyTorch's would not fit into 24 GB side by side.
      [0.5, 1, 2].map((size) => ({ size, options: { channels: [16, 32, 64].map((c) => c * size) }, batch: 16 })),
    ),
  ];
};
