import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { saveCheckpointFile, writeFileAtomically } from "../../checkpoint/node/index.ts";
import { type Dataset, isLabelled } from "../../data/index.ts";
import { must } from "../../errors.ts";
import { countCorrect, LogitsComparison, Predictor } from "../../inference/index.ts";
import { modelInfo } from "../../models/index.ts";
import { countMacs, countParameters, type Net } from "../../nn/index.ts";
import { readRecipe, type recipeNames } from "../../recipes/node/read-recipe.ts";
import { train } from "../../recipes/node/train.ts";
import { convertToDeploy } from "../../reparam/index.ts";
import { chartsSvg } from "../../report/node/curves.ts";
import type { TrainingCallback } from "../../training/index.ts";
import { claimRunFolder } from "../../training/node/run-folder.ts";

/** A network of an experiment, and the accuracy that was published for it, in percent. */
interface ExperimentVariant {
  readonly arch: string;
  readonly what: string;
  readonly published: string;
}

interface Experiment {
  /** Whose learning rate, optimizer and augmentation all variants are trained with. */
  readonly recipe: (typeof recipeNames)[number];
  /** What the published accuracies were measured with. */
  readonly conditions: string;
  /** By short name. */
  readonly variants: Readonly<Record<string, ExperimentVariant>>;
}

/** Experiments on CIFAR-10: those of RepMLP (arXiv 2105.01883, section 4.1) and of ACNet (arXiv 1908.03930, section 4.1). */
export const experiments = {
  cifar10: {
    recipe: "cifar10-pure-mlp",
    conditions: "paper, 100 epochs, 50,000 pictures",
    variants: {
      "pure-mlp": { arch: "RepMLP-CIFAR10-pure-MLP", what: "pure MLP", published: "91.11" },
      "wide-convnet": { arch: "RepMLP-CIFAR10-wide-convnet", what: "Wide ConvNet", published: "91.99" },
      "no-local": { arch: "RepMLP-CIFAR10-no-local", what: "without Local Perceptron", published: "about 82.6" },
      "no-global": { arch: "RepMLP-CIFAR10-no-global", what: "without Global Perceptron", published: "not given" },
      "fc3-conv9": {
        arch: "RepMLP-CIFAR10-fc3-conv9",
        what: "FC3 replaced by a 9 x 9 convolution",
        published: "about 87.6",
      },
      conv9: {
        arch: "RepMLP-CIFAR10-conv9",
        what: "RepMLP replaced by a 9 x 9 convolution",
        published: "below the row above",
      },
    },
  },
  acnet: {
    recipe: "cifar10-acnet",
    conditions: "authors' README, 150 epochs, 50,000 pictures",
    variants: {
      plain: { arch: "Cifar-quick-base", what: "Cifar-quick, plain", published: "86.20" },
      acb: { arch: "Cifar-quick-ACB", what: "Cifar-quick, ACB", published: "86.87" },
      dbb: { arch: "Cifar-quick-DBB", what: "Cifar-quick, DBB", published: "not given" },
      repvgg: { arch: "Cifar-quick-RepVGG", what: "Cifar-quick, RepVGG's branches", published: "not given" },
    },
  },
} as const satisfies Record<string, Experiment>;

export type ExperimentName = keyof typeof experiments;

export interface ExperimentOptions {
  /** Default `cifar10`. */
  readonly experiment?: ExperimentName;
  /** Folder of CIFAR-10. */
  readonly data: string;
  readonly epochs: number;
  /** Short names of the experiment's. Default all. */
  readonly variants?: readonly string[];
  /** Folder of everything that is written; one that holds the same experiment, stopped, is gone on with. */
  readonly folder: string;
  /** Takes the place of an earlier experiment in the folder. */
  readonly overwrite?: boolean;
  readonly seed?: number;
  /** Instead of the recipe's. */
  readonly lr?: number;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  readonly onEvent?: (variant: string, event: Parameters<TrainingCallback>[0]) => void;
  readonly onVariant?: (result: VariantResult) => void;
}

/** A test picture that the two forms put into different classes. */
export interface DifferingPicture {
  readonly index: number;
  readonly train: number;
  readonly deploy: number;
  /** Difference of the training form's two largest logits. */
  readonly margin: number;
}

export interface VariantResult {
  readonly variant: string;
  readonly arch: string;
  readonly epochs: number;
  /** Shares from 0 to 1. */
  readonly accuracy: { readonly train: number; readonly deploy: number };
  readonly parameters: { readonly train: number; readonly deploy: number };
  readonly macs: { readonly train: number; readonly deploy: number };
  /** Of the two forms' logits; not a number where one of them is not. */
  readonly difference: { readonly maxAbs: number; readonly maxRel: number };
  readonly differing: readonly DifferingPicture[];
  /** Test accuracy after each epoch. */
  readonly curve: readonly number[];
  /** Of training, evaluation left out. */
  readonly seconds: number;
  readonly imagesPerSecond: number;
  /** Share of the training time in which the network waited for data. */
  readonly dataWait: number;
}

export interface ExperimentResult {
  readonly results: readonly VariantResult[];
  /** Whether every variant was trained to the end. */
  readonly finished: boolean;
  readonly files: { readonly json: string; readonly csv: string; readonly markdown: string; readonly plot: string };
}

/**
 * A paper's CIFAR-10 experiment: trains the variants one after the other by the experiment's recipe, with another number
 * of epochs, converts each and tests both forms. Writes a table, a plot, and every variant's checkpoints and logs.
 *
 * @throws `experiment/variant`, `experiment/folder` when the folder holds an experiment with other settings, `run-folder/taken` while
 *   another one writes there
 */
export async function cifar10Experiment(options: ExperimentOptions): Promise<ExperimentResult> {
  const { folder, overwrite = false } = options;
  const { variants: known } = experimentOf(options);
  for (const name of options.variants ?? [])
    must(
      name in known,
      "experiment/variant",
      () => `experiment: there is no variant "${name}". There are ${Object.keys(known).join(", ")}.`,
      "usage",
    );
  const claim = claimRunFolder(folder, {
    ...{ resume: !overwrite, overwrite },
    results: ["experiment.json", "results.json", "results.csv", "results.md", "accuracy.svg", ...Object.keys(known)],
  });
  try {
    claim.clear();
    return await experimentIn(options);
  } finally {
    claim.release();
  }
}

const experimentOf = ({ experiment = "cifar10" }: Pick<ExperimentOptions, "experiment">): Experiment =>
  experiments[experiment];

async function experimentIn(options: ExperimentOptions): Promise<ExperimentResult> {
  const { folder, epochs, seed = 0, signal } = options;
  const experiment = experimentOf(options);
  const { variants = Object.keys(experiment.variants) } = options;
  const recipe = await readRecipe(experiment.recipe);
  const { lr = recipe.lr } = options;
  await mustBeSame(join(folder, "experiment.json"), { epochs, seed, lr });
  const results: VariantResult[] = [];
  for (const variant of variants) {
    if (signal?.aborted) break;
    const result = await runVariant(variant, { ...recipe, epochs, lr }, options);
    if (!result) break;
    results.push(result);
    options.onVariant?.(result);
  }
  const files = {
    json: join(folder, "results.json"),
    csv: join(folder, "results.csv"),
    markdown: join(folder, "results.md"),
    plot: join(folder, "accuracy.svg"),
  };
  await writeText(files.json, `${JSON.stringify(results, null, 2)}\n`);
  await writeText(
    files.csv,
    tableOf(results, options.experiment)
      .map((row) => row.map(csvCell).join(","))
      .join("\n")
      .concat("\n"),
  );
  await writeText(files.markdown, markdownTable(tableOf(results, options.experiment)));
  if (results.length) await writeText(files.plot, await plot(results, epochs));
  return { results, finished: results.length === variants.length, files };
}

async function runVariant(
  variant: string,
  recipe: Awaited<ReturnType<typeof readRecipe>>,
  options: ExperimentOptions,
): Promise<VariantResult | undefined> {
  const { data, seed, threads, signal, onEvent } = options;
  const folder = join(options.folder, variant);
  const file = join(folder, "result.json");
  if (existsSync(file)) return JSON.parse(await readFile(file, "utf8"));
  const { arch } = experimentOf(options).variants[variant];
  const { summary, model, test } = await train({
    ...{ data, kind: "cifar10", recipe, folder, arch },
    // What lies there without a checkpoint is of a run that did not get to its first one.
    ...(existsSync(join(folder, "last.safetensors")) ? { resume: true } : { overwrite: true }),
    ...{ seed, threads, signal },
    onEvent: (event) => onEvent?.(variant, event),
  });
  if (!summary.finished) return undefined;
  const deploy = convertToDeploy(model);
  must(isLabelled(test), "experiment/data", () => "internal: CIFAR-10 has classes");
  await saveCheckpointFile(join(folder, "deploy.pth"), deploy.stateDict());
  const { history } = summary;
  const [images, seconds] = [recipe.batchSize * summary.steps, history.reduce((s, r) => s + r.seconds, 0)];
  const shape = [1, ...modelInfo(arch).preprocessing({}).inputSize];
  const result: VariantResult = {
    ...{ variant, arch, epochs: recipe.epochs },
    ...(await compareForms(model, deploy, test, threads)),
    parameters: { train: countParameters(model), deploy: countParameters(deploy) },
    macs: { train: countMacs(model, shape), deploy: countMacs(deploy, shape) },
    curve: history.map((r) => r.validationTop1 ?? 0),
    seconds,
    imagesPerSecond: images / seconds,
    dataWait: history.reduce((s, r) => s + r.dataWait * r.seconds, 0) / seconds,
  };
  await writeText(file, `${JSON.stringify(result, null, 2)}\n`);
  return result;
}

/** Runs both forms on every picture. */
async function compareForms(
  train: Net,
  deploy: Net,
  test: Dataset,
  threads: number | undefined,
): Promise<Pick<VariantResult, "accuracy" | "difference" | "differing">> {
  const batchSize = 250;
  const setup = { inputShape: test.imageShape, batchSize, threads };
  const predictors = [await Predictor.create(train, setup), await Predictor.create(deploy, setup)];
  const right = [0, 0];
  const found = new LogitsComparison();
  for (let start = 0; start < test.length; start += batchSize) {
    const count = Math.min(batchSize, test.length - start);
    const { images, labels } = await test.batch(Array.from({ length: count }, (_, i) => start + i));
    const [a, b] = [await predictors[0].run(images), await predictors[1].run(images)];
    found.addRows(a, b);
    for (const [i, logits] of [a, b].entries()) right[i] += countCorrect(logits, labels);
  }
  await Promise.all(predictors.map((p) => p.dispose()));
  const { maxAbs, maxRel, disagreements } = found;
  return {
    accuracy: { train: right[0] / test.length, deploy: right[1] / test.length },
    difference: { maxAbs, maxRel },
    differing: disagreements.map(({ index, classes: [train, deploy], margin }) => ({ index, train, deploy, margin })),
  };
}

/** Notes the settings, or compares them with those of a stopped run. */
async function mustBeSame(path: string, settings: Readonly<Record<string, number>>): Promise<void> {
  if (!existsSync(path)) return writeText(path, `${JSON.stringify(settings)}\n`);
  const before: Record<string, number> = JSON.parse(await readFile(path, "utf8"));
  const other = Object.keys(settings).filter((name) => before[name] !== settings[name]);
  must(
    other.length === 0,
    "experiment/folder",
    () =>
      `${path}: holds an experiment with ${other.map((name) => `${name} ${before[name]}`).join(", ")}, this one has ${other.map((name) => `${name} ${settings[name]}`).join(", ")}. Use the same settings or another folder, or replace it by --overwrite.`,
    "usage",
  );
}

const percent = (value: number): string => (100 * value).toFixed(2);
const mega = (value: number): string => (value / 1e6).toFixed(3);

/** Rows of the table, the heads first. */
export function tableOf(results: readonly VariantResult[], experiment?: ExperimentName): string[][] {
  const { variants, conditions } = experimentOf({ experiment });
  const head = [
    ...["variant", "epochs", "top-1 % training form", "top-1 % deploy form", "differing pictures"],
    ...["parameters training form", "parameters deploy form", "MMACs training form", "MMACs deploy form"],
    ...[`published top-1 % (${conditions})`, "images/s", "waited for data %"],
  ];
  const rows = results.map((r) => [
    ...[variants[r.variant].what, `${r.epochs}`, percent(r.accuracy.train), percent(r.accuracy.deploy)],
    ...[`${r.differing.length}`, `${r.parameters.train}`, `${r.parameters.deploy}`, mega(r.macs.train)],
    ...[mega(r.macs.deploy), variants[r.variant].published, r.imagesPerSecond.toFixed(0), percent(r.dataWait)],
  ]);
  return [head, ...rows];
}

const csvCell = (text: string): string => (/[",]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function markdownTable([head, ...rows]: readonly string[][]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map((_, i) => (i ? "---:" : "---"))), ...rows.map(line), ""].join("\n");
}

function plot(results: readonly VariantResult[], epochs: number): Promise<string> {
  const series = results.map(({ variant, curve }) => ({
    name: variant,
    dots: true,
    points: curve.map((top1, i): [number, number] => [i + 1, 100 * top1]),
  }));
  const options = { title: "Test accuracy", xLabel: "epoch", yLabel: "top-1, %", xRange: [0, epochs] } as const;
  return chartsSvg("CIFAR-10: test accuracy, training form", [{ series, options }]);
}

const writeText = (path: string, text: string): Promise<void> =>
  writeFileAtomically(path, async (sink) => {
    await sink.write(new TextEncoder().encode(text));
  });
