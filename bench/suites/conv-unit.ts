import { type Case, type Context, type Figure, inChromium, inNode, own, timesFaster } from "../case.ts";

/** What our tasks and the rivals' are called in a suite. */
const tasks = {
  train: { what: "training step", own: "train", tfjs: "tfjsTrain", jax: "jaxTrain" },
  infer: { what: "inference", own: "infer", tfjs: "tfjsInfer", jax: "jaxInfer" },
} as const;

const limits: Pick<Figure, "floor" | "aim"> = { floor: 4, aim: 10 };

/** Against the WebAssembly libraries, what all of them can do: one convolution with batch norm and ReLU. */
export function convUnitCases(context: Context, suite: keyof typeof tasks): readonly Case[] {
  const { threads } = context;
  const unit = { net: "conv-bn-relu", form: "train", batch: 8, channels: 32, size: 28, threads };
  const task = tasks[suite];
  const page = "repmlp in Chromium";
  return [
    {
      name: `${suite}/conv-bn-relu-node`,
      about: `${task.what} in Node, conv 3×3 + BN + ReLU, 32 channels, 28×28, batch 8`,
      contestants: [
        inNode(own, task.own, unit),
        inNode("tfjs-wasm", task.tfjs, unit),
        inNode("jax-js", task.jax, unit),
      ],
      figures: [timesFaster("tfjs-wasm", limits), timesFaster("jax-js", limits)],
    },
    {
      name: `${suite}/conv-bn-relu-chromium`,
      about: `the same in headless Chromium, in WebAssembly with ${threads} threads, tfjs with one`,
      contestants: [
        ...inChromium(context, page, task.own, unit),
        ...inChromium(context, "tfjs-wasm", task.tfjs, unit),
        ...inChromium(context, "jax-js", task.jax, unit),
      ],
      figures: [timesFaster("tfjs-wasm", limits, page), timesFaster("jax-js", limits, page)],
    },
  ];
}
