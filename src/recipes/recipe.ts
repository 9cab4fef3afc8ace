import * as v from "valibot";
import {
  type Augmentation,
  autoAugment,
  colorJitter,
  cutout,
  horizontalFlip,
  randAugment,
  randomCrop,
  randomErasing,
  randomResizedCrop,
} from "../data/index.ts";
import { listed, must, nearest, RepmlpError } from "../errors.ts";
import { fitsPattern } from "../text.ts";
import { adamW, type Optimizer, type ScheduleSpec, sgd } from "../training/index.ts";
import { taskSettings } from "./task-settings.ts";

const positive = v.pipe(v.number(), v.finite(), v.gtValue(0));
const amount = v.pipe(v.number(), v.finite(), v.minValue(0));
const count = v.pipe(v.number(), v.safeInteger(), v.minValue(1));
const share = v.pipe(v.number(), v.minValue(0), v.maxValue(1));
const range = v.tuple([v.number(), v.number()]);

/** A random change by its `kind`; what is left out has torchvision's default. */
const augmentation = v.pipe(
  v.variant("kind", [
    v.strictObject({ kind: v.literal("randomCrop"), padding: v.optional(v.number()) }),
    v.strictObject({ kind: v.literal("horizontalFlip"), probability: v.optional(v.number()) }),
    v.strictObject({
      kind: v.literal("randomResizedCrop"),
      scale: v.optional(range),
      ratio: v.optional(range),
      interpolation: v.optional(v.picklist(["bilinear", "bicubic"])),
    }),
    v.strictObject({
      kind: v.literal("colorJitter"),
      brightness: v.optional(v.number()),
      contrast: v.optional(v.number()),
      saturation: v.optional(v.number()),
      hue: v.optional(v.number()),
    }),
    v.strictObject({
      kind: v.literal("randAugment"),
      operations: v.optional(v.number()),
      magnitude: v.optional(v.number()),
    }),
    v.strictObject({ kind: v.literal("autoAugment"), policy: v.optional(v.picklist(["imagenet", "cifar10"])) }),
    v.strictObject({
      kind: v.literal("randomErasing"),
      probability: v.optional(v.number()),
      scale: v.optional(range),
      ratio: v.optional(range),
      fill: v.optional(v.picklist(["zero", "noise"])),
    }),
    v.strictObject({ kind: v.literal("cutout"), size: v.optional(v.number()) }),
  ]),
  v.transform((given): Augmentation => {
    switch (given.kind) {
      case "randomCrop":
        return randomCrop(given);
      case "horizontalFlip":
        return horizontalFlip(given);
      case "randomResizedCrop":
        return randomResizedCrop(given);
      case "colorJitter":
        return colorJitter(given);
      case "randAugment":
        return randAugment(given);
      case "autoAugment":
        return autoAugment(given);
      case "randomErasing":
        return randomErasing(given);
      case "cutout":
        return cutout(given);
    }
  }),
);

const schedule = v.variant("kind", [
  v.strictObject({ kind: v.literal("cosine"), minLr: v.optional(amount) }),
  v.strictObject({ kind: v.literal("linear"), minLr: v.optional(amount) }),
  v.strictObject({ kind: v.literal("polynomial"), power: v.optional(positive), minLr: v.optional(amount) }),
  v.strictObject({ kind: v.literal("step"), milestones: v.array(amount), gamma: v.optional(positive) }),
  v.strictObject({ kind: v.literal("constant") }),
]) satisfies v.GenericSchema<unknown, ScheduleSpec>;

const optimizer = v.pipe(
  v.variant("name", [
    v.strictObject({
      name: v.literal("sgd"),
      momentum: v.optional(amount),
      nesterov: v.optional(v.boolean()),
      weightDecay: v.optional(amount),
    }),
    v.strictObject({
      name: v.literal("adamw"),
      betas: v.optional(range),
      eps: v.optional(positive),
      weightDecay: v.optional(amount),
    }),
  ]),
  v.transform((given): Optimizer => (given.name === "sgd" ? sgd(given) : adamW(given))),
);

const optionalShare = v.optional(v.pipe(v.number(), v.gtValue(0), v.maxValue(1)));
const fromZero = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

/** Of all ways to prune that cut channels. */
const channels = {
  flops: optionalShare,
  layers: v.optional(v.array(v.string())),
  atLeast: v.optional(share),
};

/** What follows the cut. */
const fineTune = v.optional(v.strictObject({ epochs: fromZero, lr: v.optional(positive) }));

/** How a network is pruned, by `method`; every entry is described in docs/guides/prune.md. */
const pruning = v.variant("method", [
  v.strictObject({ method: v.literal("l1"), ...channels, fineTune }),
  v.strictObject({ method: v.literal("random"), ...channels, fineTune }),
  v.strictObject({
    method: v.literal("resrep"),
    ...channels,
    lasso: v.optional(amount),
    momentum: v.optional(v.pipe(v.number(), v.minValue(0), v.ltValue(1))),
    fromEpoch: v.optional(amount),
    every: v.optional(count),
    granularity: v.optional(count),
    threshold: v.optional(amount),
    fineTune,
  }),
  v.strictObject({
    method: v.literal("csgd"),
    ...channels,
    strength: v.optional(amount),
    weightDecay: v.optional(amount),
    clusters: v.optional(v.picklist(["k-means", "even"])),
    fineTune,
  }),
  v.strictObject({
    method: v.literal("aofp"),
    ...channels,
    damage: v.optional(amount),
    stepsPerHalf: v.optional(count),
    from: v.optional(fromZero),
    fineTune,
  }),
  v.strictObject({ method: v.literal("gsm"), share: optionalShare, fineTune }),
  v.strictObject({ method: v.literal("magnitude"), share: optionalShare, fineTune }),
  v.strictObject({ method: v.literal("ticket"), fineTune }),
]);

/** Every entry is described in docs/guides/training.md. */
const recipe = v.strictObject({
  /** For people. */
  description: v.optional(v.string()),
  /** Name in the registry. */
  arch: v.optional(v.string()),
  /** What the network is trained for, where the architecture does not say it, and what the task leaves open. */
  task: v.optional(taskSettings),
  /** Options of the architecture. */
  model: v.optional(v.record(v.string(), v.unknown()), {}),
  epochs: count,
  batchSize: v.optional(count, 128),
  /** Highest learning rate. */
  lr: positive,
  warmupEpochs: v.optional(amount, 0),
  schedule: v.optional(schedule, { kind: "cosine" }),
  optimizer,
  /** Whether weight decay also acts on biases and on the scales of batch norms, as in the original code. */
  decayNormAndBias: v.optional(v.boolean(), true),
  labelSmoothing: v.optional(share, 0),
  augment: v.optional(v.array(augmentation), []),
  /**
   * Parts in which a batch is taken, to need less memory: one update with all its pictures, as if it had been taken at
   * once. Batch norms alone see the parts.
   */
  accumulate: v.optional(count),
  /** Computes the inner values of the network's blocks once more for the backward pass instead of keeping them. */
  gradCheckpointing: v.optional(v.boolean()),
  /** Scales the gradients of a step down together where their common 2-norm is larger. */
  clipNorm: v.optional(positive),
  /** Limits every value of the gradients to ±this. Not together with `clipNorm`. */
  clipValue: v.optional(positive),
  /** Moving average of weights and running statistics: validated, kept as the best, written to `ema.pth`. */
  ema: v.optional(
    v.strictObject({
      /** Share that a step keeps. */
      decay: v.pipe(v.number(), v.minValue(0), v.ltValue(1)),
      /** Begins with a lower decay. */
      warmup: v.optional(v.boolean()),
    }),
  ),
  /** Ends the run when the validation accuracy has not risen for so many epochs. */
  patience: v.optional(count),
  /** Exact batch-norm statistics over so many training batches: at the end, or before every validation too. */
  preciseBatchNorm: v.optional(v.strictObject({ batches: count, everyEpoch: v.optional(v.boolean()) })),
  /** How the network's coefficients change, by their names: from `from` (0) to `to` (1) in so many epochs. */
  coefficients: v.optional(
    v.record(
      v.string(),
      v.strictObject({
        epochs: count,
        from: v.optional(v.pipe(v.number(), v.finite())),
        to: v.optional(v.pipe(v.number(), v.finite())),
        curve: v.optional(v.picklist(["linear", "cosine"])),
      }),
    ),
  ),
  /** Blends pictures and labels within each batch. */
  mix: v.optional(
    v.strictObject({
      mixup: v.optional(amount),
      cutmix: v.optional(amount),
      probability: v.optional(share),
      switchProbability: v.optional(share),
    }),
  ),
  /** How the network is pruned; for `repmlp prune`. */
  prune: v.optional(pruning),
  /** Trains the network as it will compute in integers, and writes `model.int8.onnx`. */
  quantize: v.optional(
    v.strictObject({
      /** Machines that it is for. */
      target: v.optional(v.picklist(["portable", "vnni", "arm"])),
      /** Ranges of activations: a moving average of what they were, or learned. */
      activations: v.optional(v.picklist(["average", "learned"])),
      /** Scales of weights: from the largest of each output channel, or learned. */
      weights: v.optional(v.picklist(["largest", "learned"])),
      /** Weights that stay in float, by their keys in the merged network; `*` stands for anything. */
      keepFloat: v.optional(v.array(v.string())),
      /** Shares of the run after which batch norms keep their statistics, and activations their ranges. */
      freezeBatchNorm: v.optional(share),
      freezeObservers: v.optional(share),
      /** Batches that ranges, and norms inserted into a merged network, start from. */
      batches: v.optional(count, 16),
    }),
  ),
  /** Keys that are trained, the rest is frozen; `*` stands for anything. Default all. */
  train: v.optional(v.array(v.string()), ["*"]),
  /** Keys that are not trained, of those that `train` leaves. */
  freeze: v.optional(v.array(v.string()), []),
  /** Factors of the learning rate by key pattern; the first pattern that fits a key counts. */
  lrScale: v.optional(v.record(v.string(), amount), {}),
  /** Factor of the learning rate for the head, where `lrScale` says nothing else: what depends on the number of classes. */
  headLrScale: v.optional(amount, 1),
  /** How picture files are prepared, where neither architecture nor weights say it; what is left out is ImageNet's. */
  preprocessing: v.optional(
    v.strictObject({
      resize: v.optional(v.union([count, v.tuple([count, count])])),
      cropPct: v.optional(share),
      cropMode: v.optional(v.picklist(["center", "squash"])),
      interpolation: v.optional(v.picklist(["bilinear", "bicubic"])),
      mean: v.optional(v.array(v.number())),
      std: v.optional(v.array(positive)),
    }),
    {},
  ),
});

/** How a network is trained: everything but the data, the seed and the machine. */
export type Recipe = v.InferOutput<typeof recipe>;

/**
 * A recipe from JSON.
 *
 * @param where  file name, for messages
 * @throws `recipe/json`, `recipe/invalid` naming the entry, what was expected and found
 */
export function parseRecipe(text: string, where: string): Recipe {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new RepmlpError("recipe/json", `${where}: is not valid JSON (${(cause as Error).message}).`, "file", {
      cause,
    });
  }
  const result = v.safeParse(recipe, json);
  if (result.success) return result.output;
  const [{ message, path }] = result.issues;
  const at = path?.map(({ key }) => String(key)).join(".");
  const unknown = /^Invalid key: Expected never/.test(message);
  const known = path && path.length > 1 ? [] : Object.keys(recipe.entries);
  throw new RepmlpError(
    "recipe/invalid",
    unknown
      ? `${where}: there is no entry "${at}". ${known.length ? `Did you mean ${nearest(at ?? "", known, 1)}?` : "See docs/guides/training.md."}`
      : `${where}: ${at ?? "the recipe"}: ${message}. See the recipes that come with the package.`,
    "file",
  );
}

/** Throws `recipe/pattern` for a pattern that fits none of the keys: most often a typing error. */
export function mustFitSome(patterns: Iterable<string>, keys: readonly string[], what: string): void {
  for (const pattern of patterns)
    must(
      keys.some((key) => fitsPattern(key, pattern)),
      "recipe/pattern",
      () => `${what}: "${pattern}" fits no parameter. The network has ${listed(keys, 6)}.`,
      "usage",
    );
}

/**
 * A recipe with other settings for pruning. Those of another method than the recipe's take nothing over but what both have.
 *
 * @param given  entries of `prune`
 * @throws `recipe/invalid` for an entry that the method does not have
 */
export function withPruning(base: Recipe, given: Readonly<Record<string, unknown>>, fineTuneEpochs?: number): Recipe {
  const before: Readonly<Record<string, unknown>> = base.prune ?? {};
  const method = String(given.method ?? before.method ?? "l1");
  const known = pruning.options.find(({ entries }) => entries.method.literal === method);
  const kept = Object.entries(before).filter(([name]) => known && name in known.entries);
  const epochs = fineTuneEpochs ?? base.prune?.fineTune?.epochs;
  const all = {
    ...Object.fromEntries(kept),
    ...given,
    method,
    ...(epochs !== undefined && { fineTune: { ...base.prune?.fineTune, epochs } }),
  };
  const result = v.safeParse(pruning, all);
  if (result.success) return { ...base, prune: result.output };
  const [{ message, path }] = result.issues;
  const name = path?.map(({ key }) => String(key)).join(".") ?? "prune";
  const entries = Object.keys(known?.entries ?? {}).filter((entry) => entry !== "method" && entry !== "fineTune");
  throw new RepmlpError(
    "recipe/invalid",
    /^Invalid key: Expected never/.test(message)
      ? `prune: ${method} has no setting "${name}". It has ${listed(entries, 9) || "none"}.`
      : `prune: ${name}: ${message}. See docs/guides/prune.md.`,
    "usage",
  );
}
