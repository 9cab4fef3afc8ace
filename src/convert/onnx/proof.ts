import { fmt, must, RepmlpError } from "../../errors.ts";
import { Comparison } from "../../inference/compare.ts";
import type { OnnxModel, OnnxValueInfo } from "../../onnx/index.ts";
import { isFloating, rng, type Shape, sizeOf, Tensor } from "../../tensor/index.ts";
import { GraphView, withSizes } from "./graph.ts";

export type Feeds = Readonly<Record<string, Tensor>>;

/** A model that is ready to run. */
export interface OnnxRunner {
  run(feeds: Feeds): Promise<Readonly<Record<string, Tensor>>>;
  dispose(): Promise<void>;
}

export interface OutputDifference {
  readonly name: string;
  readonly maxAbs: number;
  /** `maxAbs` divided by the largest absolute value of the output. */
  readonly maxRel: number;
  /**
   * Where that is more than allowed: by how much the output of the model itself differs when it is computed node by node,
   * without the runtime's optimizations. What is not far above is rounding.
   */
  readonly rounding?: number;
  readonly passed: boolean;
}

/** What came of running a model and what it was made into on the same inputs. */
export interface OnnxProof {
  /** The largest difference of each output. */
  readonly outputs: readonly OutputDifference[];
  readonly maxRel: number;
  readonly passed: boolean;
  /** Sizes of the inputs of each run. */
  readonly sizes: readonly Readonly<Record<string, Shape>>[];
  /** Of one run with the inputs of the first size: the median of several. */
  readonly milliseconds: readonly [before: number, after: number];
}

export interface ProofOptions {
  /** Inputs to run both on. Default: random ones of two sizes, where sizes are open. */
  readonly inputs?: readonly Feeds[] | undefined;
  /** Seed of the random inputs. Default 0. */
  readonly seed?: number;
  /** Largest difference that is allowed, as a share of an output's largest value. Default 1e-4. */
  readonly tolerance?: number;
  /** Opens the model without the runtime's optimizations, to tell rounding from differences. */
  readonly plain?: () => Promise<OnnxRunner>;
}

/** Several times a model's own rounding is no difference of two models. */
const ROUNDINGS = 4;

/** Random numbers that are made for one input at most. */
const INPUT_LIMIT = 2 ** 25;

/** Sizes of open axes that are tried: pictures (batch, pixels), then others; the first pair that the model takes counts. */
const trials = [
  { batch: [1, 2], pixels: [64, 96], steps: [16, 24] },
  { batch: [1, 1], pixels: [64, 96], steps: [16, 24] },
  { batch: [1, 2], pixels: [224, 256], steps: [128, 64] },
  { batch: [1, 1], pixels: [224, 256], steps: [512, 256] },
  { batch: [1, 1], pixels: [48, 320], steps: [512, 1024] },
  { batch: [1, 1], pixels: [640, 320], steps: [2, 3] },
] as const;

/**
 * Runs a model and what it was made into on the same inputs, one model in memory at a time, and compares all outputs.
 *
 * @throws RepmlpError `convert-onnx/inputs` where no random input can be made that the model takes, `convert-onnx/size` where
 *   it would make billions of numbers of them
 */
export async function proveOnnx(
  model: OnnxModel,
  before: () => Promise<OnnxRunner>,
  after: () => Promise<OnnxRunner>,
  { inputs, seed = 0, tolerance = 1e-4, plain }: ProofOptions = {},
): Promise<OnnxProof> {
  // Before anything is opened: what the file itself asks for may be too much.
  for (const feed of inputs ?? [{}]) mustFit(model, feed);
  const first = await withRunner(before, async (runner) => {
    const feeds = inputs ?? (await acceptedFeeds(model, runner, seed));
    const outputs = [];
    for (const feed of feeds) outputs.push(await runner.run(feed));
    return { feeds, outputs, milliseconds: await timed(runner, feeds[0]) };
  });
  const second = await withRunner(after, async (runner) => ({
    found: await compared(first, runner),
    milliseconds: await timed(runner, first.feeds[0]),
  }));
  const { found } = second;
  const isFar = found.some(({ maxRel }) => !(maxRel <= tolerance));
  const own = isFar && plain ? await withRunner(plain, (runner) => compared(first, runner)) : undefined;
  const outputs = found.map(({ path: name, maxAbs, maxRel }, i) => {
    const rounding = maxRel <= tolerance ? undefined : own?.[i].maxAbs;
    const passed = maxRel <= tolerance || (rounding !== undefined && maxAbs <= ROUNDINGS * rounding);
    return { name, maxAbs, maxRel, ...(rounding !== undefined && { rounding }), passed };
  });
  const worst = outputs.map((o) => o.maxRel);
  return {
    outputs,
    // Not a number, where one is none.
    maxRel: worst.some(Number.isNaN) ? Number.NaN : Math.max(0, ...worst),
    passed: outputs.every((o) => o.passed),
    sizes: first.feeds.map((feed) => Object.fromEntries(Object.entries(feed).map(([name, t]) => [name, t.shape]))),
    milliseconds: [first.milliseconds, second.milliseconds],
  };
}

interface Runs {
  readonly feeds: readonly Feeds[];
  readonly outputs: readonly Readonly<Record<string, Tensor>>[];
}

/** Compares what another model makes of the same inputs, output by output. */
async function compared({ feeds, outputs }: Runs, runner: OnnxRunner): Promise<Comparison[]> {
  const found = new Map(Object.keys(outputs[0] ?? {}).map((name) => [name, new Comparison(name)]));
  for (const [i, feed] of feeds.entries()) {
    const made = await runner.run(feed);
    for (const [name, comparison] of found) {
      const [a, b] = [outputs[i][name], made[name]];
      // Of another size: nothing of one is to be compared with anything of the other.
      if (a.size !== b?.size) comparison.add([0], [Number.NaN]);
      else comparison.add(a.toFloat64(), b.toFloat64());
    }
  }
  return [...found.values()];
}

async function withRunner<T>(open: () => Promise<OnnxRunner>, use: (runner: OnnxRunner) => Promise<T>): Promise<T> {
  const runner = await open();
  try {
    return await use(runner);
  } finally {
    await runner.dispose();
  }
}

/** Median of a few runs, in milliseconds. */
async function timed(runner: OnnxRunner, feed: Feeds): Promise<number> {
  const times: number[] = [];
  const end = performance.now() + 500;
  do {
    const start = performance.now();
    await runner.run(feed);
    times.push(performance.now() - start);
  } while (times.length < 11 && performance.now() < end);
  return times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
}

/** Random inputs that the model runs on: one set, or two where sizes are open. */
async function acceptedFeeds(model: OnnxModel, runner: OnnxRunner, seed: number): Promise<readonly Feeds[]> {
  const { inputs, kept } = model;
  const readable = new Set(inputs.map(({ name }) => name));
  const other = kept?.inputs.find(([name]) => !readable.has(name) && !kept.initialized.has(name))?.[0];
  must(
    other === undefined,
    "convert-onnx/inputs",
    () => noInputs(`input "${other}" is no tensor of a known type`),
    "usage",
  );
  const vague = inputs.find(({ shape }) => !shape);
  must(
    !vague,
    "convert-onnx/inputs",
    () => noInputs(`the file does not say how many axes input "${vague!.name}" has`),
    "usage",
  );
  const isOpen = inputs.some(({ shape }) => shape!.some((d) => typeof d === "string"));
  const tried: string[] = [];
  let reason = "";
  for (const trial of isOpen ? trials : trials.slice(0, 1)) {
    const feeds = (isOpen ? [0, 1] : [0]).map((which) => randomFeeds(inputs, trial, which, seed));
    for (const feed of feeds) mustFit(model, feed);
    try {
      for (const feed of feeds) await runner.run(feed);
      return feeds;
    } catch (cause) {
      if (!(cause instanceof RepmlpError)) throw cause;
      reason = cause.message;
      tried.push(
        feeds
          .map((feed) =>
            Object.values(feed)
              .map((t) => fmt(t.shape))
              .join(" "),
          )
          .join(" and "),
      );
    }
  }
  throw new RepmlpError(
    "convert-onnx/inputs",
    noInputs(`it does not run on random inputs of sizes ${tried.join(", nor ")} (${reason})`),
    "usage",
  );
}

/** The runtime would try to make values of any size; those that follow from the sizes of the inputs are looked at before. */
function mustFit(model: OnnxModel, feed: Feeds): void {
  new GraphView(withSizes(model, Object.fromEntries(Object.entries(feed).map(([name, t]) => [name, t.shape]))));
}

const noInputs = (why: string): string =>
  `convert: the model cannot be compared with what it was made into: ${why}. Give --inputs, or --no-verify to do without.`;

function randomFeeds(
  inputs: readonly OnnxValueInfo[],
  trial: (typeof trials)[number],
  which: number,
  seed: number,
): Feeds {
  const random = rng(seed, `convert-onnx/${which}`);
  return Object.fromEntries(
    inputs.map(({ name, dtype, shape = [] }) => {
      const sizes = shape.map((d, axis) => {
        if (typeof d === "number") return d;
        // Behind a first size that is fixed comes the batch in the state of a recurrent layer.
        if (axis === 0 || (axis === 1 && shape.length === 3 && typeof shape[0] === "number")) return trial.batch[which];
        return axis >= 2 && shape.length === 4 ? trial.pixels[which] : shape.length === 4 ? 3 : trial.steps[which];
      });
      const count = sizeOf(sizes);
      must(
        count <= INPUT_LIMIT,
        "convert-onnx/inputs",
        () => noInputs(`input "${name}" would be ${fmt(sizes)}, ${count} numbers`),
        "usage",
      );
      const values = new Float64Array(count);
      for (let i = 0; i < count; i++) values[i] = isFloating(dtype) ? random.normal() : random.below(2);
      return [name, Tensor.of(dtype, sizes, values)];
    }),
  );
}
