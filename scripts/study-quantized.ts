/**
 * Float, quantized after training and trained for integers, side by side, on networks trained here:
 *
 *   npx tsx scripts/study-quantized.ts OUT [CASE…] [--data DATA] [--seeds 1] [--rows PATTERN] [--threads 1] [--given FOLDER]
 *   npx tsx scripts/study-quantized.ts OUT [CASE…] --table | --json    # only what is there
 *
 * Cases: `demo` (the demo's network), `repvgg` and `qarepvgg` (small plain networks of these blocks), trained on the package's
 * part of Fashion-MNIST; `pure-mlp` and `wide-convnet` of the paper's on CIFAR-10. DATA holds `fashion-mnist/`, whose whole test
 * set then counts instead of the package's part, and `cifar10/`, which its cases need. `a0-repvgg`, `a0-repvgg-l2`, `a0-qarepvgg`
 * and `a0-repopt` are CIFAR-10 networks of RepVGG-A0's shape that scripts/train_family_torch.py has written into `--given`. OUT/CASE/results.json keeps each row,
 * OUT/CASE/… each training run: what is there is not made again, and what was stopped goes on. `--seeds` is of fine-tuning.
 */
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { insertBatchNorms, QARepVGGBlock, RepVGGBlock } from "../src/blocks/index.ts";
import { cifar10, fashionMnist, fashionMnistSmall } from "../src/data/node/index.ts";
import { type Net, Sequential } from "../src/nn/index.ts";
import {
  type Batch,
  calibrateQuantizedNet,
  calibrationStatistics,
  compileModel,
  convertToDeploy,
  createModel,
  DataLoader,
  type Dataset,
  exportOnnx,
  exportQuantized,
  type Feeds,
  folderStore,
  nn,
  openCheckpointFile,
  openOnnx,
  parseRecipe,
  type QuantizationTargetName,
  QuantizedNet,
  type QuantizeOnnxOptions,
  quantizeOnnx,
  quantizeWeights,
  type Recipe,
  readRecipe,
  saveCheckpointFile,
  saveOnnx,
  startInsertedNorms,
  subset,
  type Tensor,
  Trainer,
} from "../src/node.ts";
import type { OnnxModel } from "../src/onnx/index.ts";
import { trainerOptions } from "../src/recipes/node/train.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: "string" },
    given: { type: "string" },
    seeds: { type: "string", default: "1" },
    rows: { type: "string", default: "" },
    threads: { type: "string", default: "1" },
    table: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});
const [out, ...chosen] = positionals;
if (out === undefined) throw new Error("usage: study-quantized.ts OUT [CASE…] [--data DATA] [--seeds N] [--table]");
const threads = Number(values.threads);
const wanted = new RegExp(values.rows);

interface Case {
  readonly what: string;
  readonly data: keyof typeof dataSets;
  readonly make: () => Net;
  /** Of training in float, of which only the augmentation counts where the weights are `given`. */
  readonly recipe: Recipe;
  /** File of weights in the folder `--given`: the network is not trained here. */
  readonly given?: string;
  /** Fine-tuning by recipes/quantize.json and quantize-merged.json with the augmentation of `recipe`: epochs, and of how many pictures (default all). */
  readonly tuning: { readonly epochs: number; readonly pictures?: number };
}

const folderOf = (name: string): string => {
  if (values.data === undefined) throw new Error(`study-quantized.ts: say where ${name}/ lies, with --data`);
  return join(values.data, name);
};
const dataSets = {
  "fashion-mnist": (split: "train" | "test", { augment }: Recipe): Promise<Dataset> =>
    split === "test" && values.data !== undefined
      ? fashionMnist(folderOf("fashion-mnist"), split)
      : fashionMnistSmall(split, split === "train" ? { augment } : {}),
  cifar10: (split: "train" | "test", { augment }: Recipe): Promise<Dataset> =>
    cifar10(folderOf("cifar10"), split, split === "train" ? { augment } : {}),
};

const plain = (Block: typeof RepVGGBlock | typeof QARepVGGBlock): Net => {
  const block = (inChannels: number, outChannels: number, stride = 1) => new Block({ inChannels, outChannels, stride });
  return new Sequential(
    ...[block(1, 16, 2), block(16, 16), block(16, 16), block(16, 32, 2), block(32, 32), block(32, 32), block(32, 32)],
    ...[block(32, 64, 2), block(64, 64), new nn.GlobalAvgPool(), new nn.Linear(64, 10)],
  );
};
/** As the demo trains. */
const small = (epochs: number, lr: number): Recipe => {
  const optimizer = { name: "sgd", momentum: 0.9, nesterov: true, weightDecay: 5e-4 };
  return parseRecipe(JSON.stringify({ epochs, lr, batchSize: 64, warmupEpochs: 1, optimizer }), "study-quantized.ts");
};

/** Half as wide as RepVGG-A0, for 32 pixels. */
const a0Shape = {
  ...{ numBlocks: [2, 4, 14, 1], widthMultiplier: [0.375, 0.375, 0.375, 1.25] },
  ...{ strides: [1, 2, 2, 2, 2], numClasses: 10, imageSize: 32 },
};
const a0 = async (what: string, arch: string, given: string): Promise<Case> => ({
  what,
  data: "cifar10",
  make: () => createModel(arch, a0Shape),
  recipe: await readRecipe("cifar10-conv"),
  given,
  tuning: { epochs: 1, pictures: 10_000 },
});
const cases: Readonly<Record<string, Case>> = {
  demo: {
    what: "the demo's RepMLP",
    data: "fashion-mnist",
    make: () => createModel("RepMLP-Mixer-28"),
    recipe: small(8, 0.05),
    tuning: { epochs: 5 },
  },
  repvgg: {
    what: "RepVGG blocks",
    data: "fashion-mnist",
    make: () => plain(RepVGGBlock),
    recipe: small(10, 0.1),
    tuning: { epochs: 10 },
  },
  qarepvgg: {
    what: "QARepVGG blocks",
    data: "fashion-mnist",
    make: () => plain(QARepVGGBlock),
    recipe: small(10, 0.1),
    tuning: { epochs: 10 },
  },
  "pure-mlp": {
    what: "pure MLP",
    data: "cifar10",
    make: () => createModel("RepMLP-CIFAR10-pure-MLP"),
    recipe: { ...(await readRecipe("cifar10-pure-mlp")), epochs: 4 },
    tuning: { epochs: 1, pictures: 10_000 },
  },
  "wide-convnet": {
    what: "Wide ConvNet",
    data: "cifar10",
    make: () => createModel("RepMLP-CIFAR10-wide-convnet"),
    recipe: { ...(await readRecipe("cifar10-conv")), epochs: 8 },
    tuning: { epochs: 1, pictures: 10_000 },
  },
  "a0-repvgg": await a0("RepVGG-A0", "RepVGG-A0", "repvgg.pth"),
  "a0-repvgg-l2": await a0("RepVGG-A0, custom L2", "RepVGG-A0", "repvgg-l2.pth"),
  "a0-qarepvgg": await a0("QARepVGG-A0", "QARepVGG-A0", "qarepvgg.pth"),
  "a0-repopt": await a0("RepOpt-VGG of that shape", "RepOpt-VGG-B1", "repopt.pth"),
};

const targets = ["portable", "vnni"] as const satisfies readonly QuantizationTargetName[];
const calibrators = ["minmax", "percentile", "entropy", "mse", "auto"] as const;
const weightTypes = ["float16", "int8", "int4"] as const;
const seeds = Array.from({ length: Number(values.seeds) }, (_, i) => i + 1);

/** Of each row, by name: which test pictures are right, as `1` and `0`. */
type Results = Record<string, string>;
const fileOf = (name: string): string => join(out, name, "results.json");
/** The network with its weights stored so, alone. */
const storedFile = (name: string, type: string): string => join(out, name, `weights-${type}.onnx`);
const resultsOf = (name: string): Results =>
  existsSync(fileOf(name)) ? JSON.parse(readFileSync(fileOf(name), "utf8")) : {};

const share = (marks: string): number => marks.replaceAll("0", "").length / marks.length;
/** Pictures that only the one or only the other has right. */
const differing = (a: string, b: string): number => [...a].filter((mark, i) => mark !== b[i]).length;

const names = Object.keys(cases).filter((name) => !chosen.length || chosen.includes(name));
if (!values.table && !values.json) for (const name of names) await study(name, cases[name]);
if (values.json) console.log(JSON.stringify(Object.fromEntries(names.map((name) => [name, summary(resultsOf(name))]))));
else {
  printTable();
  printStored();
}

async function study(name: string, { make, recipe, data, given, tuning }: Case): Promise<void> {
  const [train, test] = [await dataSets[data]("train", recipe), await dataSets[data]("test", recipe)];
  const calibration = await dataSets[data]("train", { ...recipe, augment: [] });
  const inputShape = train.imageShape;
  const folder = join(out, name);
  mkdirSync(folder, { recursive: true });
  const results = resultsOf(name);
  const row = async (of: string, model: () => Promise<OnnxModel>): Promise<void> => {
    if (!wanted.test(of)) return;
    if (results[of] === undefined) {
      const found = await marks(await model(), test);
      // Another process may have added rows of its own.
      Object.assign(results, resultsOf(name), { [of]: found });
      writeFileSync(fileOf(name), JSON.stringify(results, undefined, 1));
    }
    console.error(`${name} ${of}: ${(100 * share(results[of])).toFixed(2)} % of ${test.length}`);
  };
  const trained = async (): Promise<Net> =>
    given === undefined
      ? learned(make(), { folder: join(folder, "float"), recipe, train, seed: 0 })
      : withWeights(make(), join(givenFolder(), given));
  const { model } = await exportOnnx(await trained(), { inputShape });
  await row("float", async () => model);
  if (!existsSync(storedFile(name, "float"))) await saveOnnx(storedFile(name, "float"), model);
  for (const type of weightTypes)
    await row(`weights ${type}`, async () => {
      const smaller = quantizeWeights(model, { type }).model;
      await saveOnnx(storedFile(name, type), smaller);
      return smaller;
    });
  const feeds = async function* (): AsyncGenerator<Feeds> {
    for (let at = 0; at < 256; at += 64) yield { pixel_values: (await calibration.batch(indices(64, at))).images };
  };
  const statistics = await calibrationStatistics(model, feeds(), { compile: { threads } });
  for (const target of targets) {
    const quantized = async (options: QuantizeOnnxOptions): Promise<OnnxModel> =>
      (await quantizeOnnx(model, statistics, { target, compile: { threads }, ...options })).model;
    await row(`${target} one scale`, () =>
      quantized({ calibrator: "minmax", perChannel: false, biasCorrection: false }),
    );
    for (const calibrator of calibrators) await row(`${target} ${calibrator}`, () => quantized({ calibrator }));
    await row(`${target} split`, async () => {
      const options = { target, calibrator: "mse", splitOutliers: true, compile: { threads } } as const;
      return (await quantizeOnnx(model, feeds(), options)).model;
    });
  }
  const fineTuning = async (name: string): Promise<Recipe> => ({
    ...(await readRecipe(name)),
    ...{ epochs: tuning.epochs, augment: recipe.augment },
  });
  const tuningSet = subset(train, indices(tuning.pictures ?? train.length));
  for (const seed of seeds) {
    const tuned = async (of: string, start: Net, by: string, quantize?: Recipe["quantize"]): Promise<OnnxModel> => {
      const run = {
        folder: join(folder, of.replaceAll(" ", "-")),
        recipe: { ...(await fineTuning(by)), quantize },
        train: tuningSet,
        seed,
      };
      const file = join(run.folder, "model.onnx");
      if (!existsSync(file)) {
        const net = await learned(start, run);
        const made = net instanceof QuantizedNet ? exportQuantized(net, { compile: { threads } }) : undefined;
        await saveOnnx(file, (await (made ?? exportOnnx(net, { inputShape }))).model);
      }
      return openOnnx(file);
    };
    await row(`float tuned ${seed}`, async () => tuned(`float tuned ${seed}`, await trained(), "quantize"));
    for (const target of targets) {
      const quantize = { target, batches: 16 };
      const [inserted, branches] = [`${target} inserted ${seed}`, `${target} trained ${seed}`];
      await row(inserted, async () =>
        tuned(inserted, insertBatchNorms(convertToDeploy(await trained())), "quantize-merged", quantize),
      );
      await row(branches, async () => tuned(branches, await trained(), "quantize", quantize));
    }
  }
}

interface Run {
  readonly folder: string;
  readonly recipe: Recipe;
  readonly train: Dataset;
  readonly seed: number;
}

/** Trains a network by a recipe as `repmlp train` does, with its entry "quantize", too; of a finished run reads the weights. */
async function learned(net: Net, { folder, recipe, train, seed }: Run): Promise<Net> {
  const { quantize, batchSize } = recipe;
  const { imageShape: inputShape } = train;
  const weights = join(folder, "train.pth");
  const whole = quantize ? new QuantizedNet(net, { ...quantize, inputShape }) : net;
  if (existsSync(weights)) return withWeights(whole, weights);
  const resume = existsSync(join(folder, "last.safetensors"));
  const batches = async function* (): AsyncGenerator<Tensor> {
    let left = quantize?.batches ?? 16;
    for await (const { images } of new DataLoader(train, { batchSize, shuffle: true, seed, dropLast: true })) {
      yield images;
      if (--left === 0) return;
    }
  };
  if (!resume) {
    net.initialize(seed);
    await startInsertedNorms(net, batches(), { threads });
    if (whole instanceof QuantizedNet) await calibrateQuantizedNet(whole, batches(), { threads });
  }
  await new Trainer<Batch, Net>(whole, {
    ...trainerOptions(recipe, whole),
    ...{ data: { train }, seed, threads, store: folderStore(folder), resume },
  }).run();
  await saveCheckpointFile(weights, whole.stateDict());
  return whole;
}

async function withWeights<N extends Net>(net: N, file: string): Promise<N> {
  using checkpoint = await openCheckpointFile(file);
  const read = [...checkpoint.entries].map(async ([key, source]) => [key, await source.read()] as const);
  net.loadStateDict(new Map(await Promise.all(read)));
  net.eval();
  return net;
}

function givenFolder(): string {
  if (values.given === undefined) throw new Error("study-quantized.ts: say where the given weights lie, with --given");
  return values.given;
}

function indices(count: number, from = 0): number[] {
  return Array.from({ length: count }, (_, i) => from + i);
}

async function marks(model: OnnxModel, test: Dataset): Promise<string> {
  await using program = await compileModel(model, { threads });
  let found = "";
  for (let at = 0; at < test.length; at += 100) {
    const { images, labels } = await test.batch(indices(Math.min(100, test.length - at), at));
    const [logits] = Object.values(await program.run({ pixel_values: images }));
    const [, classes] = logits.shape;
    for (const [i, label] of labels.entries()) {
      const row = (logits.data as Float32Array).subarray(i * classes, (i + 1) * classes);
      found += row.indexOf(row.reduce((a, b) => Math.max(a, b))) === label ? "1" : "0";
    }
  }
  return found;
}

/** Of each row: per cent right, and the standard error of its difference from float, in points. */
function summary(results: Results): Record<string, { readonly percent: number; readonly error: number }> {
  const { float } = results;
  return Object.fromEntries(
    Object.entries(results).map(([of, own]) => [
      of,
      { percent: 100 * share(own), error: (100 * Math.sqrt(differing(own, float))) / own.length },
    ]),
  );
}

function line(cells: readonly string[]): void {
  console.log(`| ${cells.join(" | ")} |`);
}

/** Per cent right and megabytes of the file, where weights alone are smaller. */
function printStored(): void {
  console.log();
  line(["network", "float", ...weightTypes]);
  line(["---", "---:", ...weightTypes.map(() => "---:")]);
  for (const name of names) {
    const results = resultsOf(name);
    const cells = ["float", ...weightTypes].map((type) => {
      const own = results[type === "float" ? type : `weights ${type}`];
      const file = storedFile(name, type);
      return own && existsSync(file)
        ? `${(100 * share(own)).toFixed(2)}, ${(statSync(file).size / 1e6).toFixed(2)} MB`
        : "";
    });
    if (cells.some((cell) => cell)) line([cases[name].what, ...cells]);
  }
}

function printTable(): void {
  const heads = ["float", "float, tuned", "one scale", ...calibrators, "inserted norms", "trained", "±"];
  line(["network", "weight bits", ...heads]);
  line(["---", ...heads.map(() => "---:"), "---:"]);
  for (const name of names)
    for (const target of targets) {
      const results = resultsOf(name);
      const rows = Object.entries(summary(results)).filter(([of]) => of.startsWith("float") || of.startsWith(target));
      if (!rows.length) continue;
      /** Figures of the rows that begin so, one for each seed. */
      const cell = (of: string): string =>
        rows
          .filter(([name]) => name.replace(/ \d+$/, "") === of)
          .map(([, { percent }]) => percent.toFixed(results.float.length < 2000 ? 1 : 2))
          .join(", ");
      const columns = ["one scale", ...calibrators, "inserted", "trained"].map((of) => cell(`${target} ${of}`));
      const error = Math.max(...rows.map(([, { error }]) => error)).toFixed(2);
      const bits = target === "portable" ? "7" : "8";
      line([cases[name].what, bits, cell("float"), cell("float tuned"), ...columns, error]);
    }
}
