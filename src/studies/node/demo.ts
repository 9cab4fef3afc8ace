import { stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { RepMLP } from "../../blocks/index.ts";
import { saveCheckpointFile, writeFileAtomically } from "../../checkpoint/node/index.ts";
import type { PixelDataset } from "../../data/index.ts";
import { fashionMnistSmall } from "../../data/node/index.ts";
import { exportOnnx } from "../../export/export-onnx.ts";
import {
  type Equivalence,
  judge,
  outputTolerances,
  Predictor,
  type Verdict,
  verifyEquivalence,
} from "../../inference/index.ts";
import { rankClasses } from "../../inference/rank.ts";
import { createModel, modelInfo } from "../../models/index.ts";
import { countMacs, countParameters, type Net } from "../../nn/index.ts";
import { encodeOnnx } from "../../onnx/index.ts";
import { convertToDeploy, HostAlgebra, mapOf, normAfter } from "../../reparam/index.ts";
import { fcKernelPicture, pngUri } from "../../report/node/picture.ts";
import { type FormFigures, type Prediction, trainingReport } from "../../report/node/training-report.ts";
import { evaluate } from "../../tasks/index.ts";
import type { Tensor } from "../../tensor/index.ts";
import { sgd, Trainer, type TrainingEvent, type TrainingSummary } from "../../training/index.ts";
import { folderStore } from "../../training/node/checkpoint-store.ts";
import { fileLogs, loggedLosses } from "../../training/node/logs.ts";
import { claimRunFolder } from "../../training/node/run-folder.ts";

/** The network of the demo. */
const ARCH = "RepMLP-Mixer-28";

export interface DemoOptions {
  /** Folder of everything that is written. */
  readonly folder: string;
  readonly epochs: number;
  readonly batchSize: number;
  readonly lr: number;
  readonly seed: number;
  readonly resume: boolean;
  /** Takes the place of an earlier run in the folder. */
  readonly overwrite?: boolean;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: TrainingEvent) => void;
  /** Told what is being done after training. */
  readonly onPhase?: (what: string) => void;
}

export interface DemoResult {
  readonly arch: string;
  readonly summary: TrainingSummary;
  readonly train: FormFigures;
  readonly deploy: FormFigures;
  readonly equivalence: Equivalence;
  /** Whether the two forms, and every block of theirs, are equal but for rounding. */
  readonly verdict: Verdict;
  /** Files written, by what they are. */
  readonly files: Readonly<Record<"training" | "deploy" | "onnx" | "report" | "log", string>>;
  readonly seconds: number;
}

/**
 * The main job, end to end on real pictures: trains a small RepMLP network on the Fashion-MNIST subset of the package,
 * converts it, proves both forms equal on the test pictures, measures both, exports ONNX and writes a report.
 *
 * @throws `run-folder/taken`, `run-folder/results` where another run writes there or an earlier one has left its results
 * @returns `undefined` when the signal stopped it, in training or after; the folder then holds a checkpoint to resume from
 */
export async function runDemo(options: DemoOptions): Promise<DemoResult | undefined> {
  const { folder, resume, overwrite } = options;
  const claim = claimRunFolder(folder, { resume, overwrite, results: demoFiles });
  try {
    claim.clear();
    return await demoIn(options);
  } finally {
    claim.release();
  }
}

const demoFiles = [
  ...["last.safetensors", "best.safetensors", "train.pth", "deploy.pth", "deploy.onnx", "report.html"],
] as const;

async function demoIn(options: DemoOptions): Promise<DemoResult | undefined> {
  const { folder, epochs, batchSize, lr, seed, resume, threads, signal, onEvent, onPhase = () => {} } = options;
  const started = performance.now();
  const [training, test] = await Promise.all([fashionMnistSmall("train"), fashionMnistSmall("test")]);
  const store = folderStore(folder);
  await store.prepare();
  const model = createModel(ARCH);
  const log = fileLogs(folder);
  const trainer = new Trainer(model, {
    data: { train: training, validation: test },
    epochs,
    batchSize,
    lr,
    warmupEpochs: Math.min(1, epochs / 4),
    optimizer: sgd({ momentum: 0.9, nesterov: true, weightDecay: 5e-4 }),
    seed,
    threads,
    store,
    resume,
    signal,
    metadata: { arch: ARCH },
    onEvent: (event) => {
      log(event);
      onEvent?.(event);
    },
  });
  const summary = await trainer.run();
  const goesOn = (what: string): boolean => {
    if (!signal?.aborted) onPhase(what);
    return !signal?.aborted;
  };
  if (!summary.finished || !goesOn("converting and verifying on the test pictures")) return undefined;
  const deploy = convertToDeploy(model);
  const { images, labels } = await test.batch(Array.from({ length: test.length }, (_, i) => i));
  const equivalence = await verifyEquivalence(model, deploy, { inputs: images, threads });

  if (!goesOn("writing checkpoints and ONNX")) return undefined;
  const files = {
    training: join(folder, "train.pth"),
    deploy: join(folder, "deploy.pth"),
    onnx: join(folder, "deploy.onnx"),
    report: join(folder, "report.html"),
    log: join(folder, "log.csv"),
  };
  await saveCheckpointFile(files.training, model.stateDict());
  await saveCheckpointFile(files.deploy, deploy.stateDict());
  const { channels, imageSize } = modelInfo(ARCH);
  const inputShape = [channels, imageSize, imageSize];
  const exported = await exportOnnx(deploy, {
    inputShape,
    metadata: { arch: ARCH, labels: test.classes, preprocessing: modelInfo(ARCH).preprocessing({}) },
  });
  await writeFileAtomically(files.onnx, async (sink) => {
    await sink.write(encodeOnnx(exported.model));
  });

  if (!goesOn("measuring both forms")) return undefined;
  const speeds = await throughputs([model, deploy], images, threads);
  const figures = async (net: Net, speed: number, file: string): Promise<FormFigures> => {
    const { top1, total } = await evaluate(net, test, { threads });
    return {
      accuracy: top1 / total,
      parameters: countParameters(net),
      macs: countMacs(net, [1, ...inputShape]),
      imagesPerSecond: speed,
      fileBytes: (await stat(file)).size,
    };
  };
  const [trainFigures, deployFigures] = [
    await figures(model, speeds[0], files.training),
    await figures(deploy, speeds[1], files.deploy),
  ];
  const result = {
    arch: ARCH,
    summary,
    train: trainFigures,
    deploy: deployFigures,
    equivalence,
    verdict: judge(equivalence, outputTolerances.float32),
    files,
    seconds: (performance.now() - started) / 1000,
  };
  const html = await trainingReport({
    title: `${ARCH} on ${training.length.toLocaleString("en-US")} pictures of Fashion-MNIST`,
    losses: loggedLosses(folder),
    history: summary.history,
    train: trainFigures,
    deploy: deployFigures,
    equivalence,
    predictions: await predictions(deploy, test, images, labels),
    kernels: await kernels(model, deploy),
    facts: {
      "Training time": `${summary.history.reduce((s, r) => s + r.seconds, 0).toFixed(0)} s`,
      Steps: String(summary.steps),
      "Batch size": String(batchSize),
      "Learning rate": `${lr}, cosine`,
      Seed: String(seed),
      Platform: `Node ${process.versions.node}, ${process.platform} ${process.arch}`,
    },
  });
  await writeFile(files.report, html);
  return result;
}

/** Pictures per second of several networks, measured in turns so that all see the same conditions; best of a few. */
async function throughputs(nets: readonly Net[], images: Tensor, threads?: number): Promise<number[]> {
  const [, ...inputShape] = images.shape;
  const predictors = await Promise.all(
    nets.map((net) => Predictor.create(net, { inputShape, batchSize: 100, threads })),
  );
  const best = nets.map(() => 0);
  for (let round = 0; round < 6; round++)
    for (const [i, predictor] of predictors.entries()) {
      const start = performance.now();
      await predictor.run(images);
      const speed = images.shape[0] / ((performance.now() - start) / 1000);
      // The first round warms up.
      if (round > 0) best[i] = Math.max(best[i], speed);
    }
  await Promise.all(predictors.map((p) => p.dispose()));
  return best;
}

/** A few test pictures with what the network makes of them: six right ones and the two most confident mistakes. */
async function predictions(
  net: Net,
  { classes, pixels, imageShape: [, height, width] }: PixelDataset,
  images: Tensor,
  labels: Int32Array,
): Promise<Prediction[]> {
  const predictor = await Predictor.create(net, { inputShape: images.shape.slice(1), batchSize: 100 });
  const logits = await predictor.run(images);
  await predictor.dispose();
  const width1 = logits.shape[1];
  const all = Array.from(labels, (label, index) => {
    const row = (logits.data as Float32Array).subarray(index * width1, (index + 1) * width1);
    const [{ index: predicted, probability: confidence }] = rankClasses(row, 1);
    return { index, label, predicted, confidence };
  });
  const right = classes.flatMap((_, c) => all.find((p) => p.label === c && p.predicted === c) ?? []).slice(0, 8);
  const wrong = all.filter((p) => p.predicted !== p.label).sort((a, b) => b.confidence - a.confidence);
  return Promise.all(
    [...right, ...wrong.slice(0, 2)].map(async ({ index, label, predicted, confidence }) => ({
      picture: await pngUri({
        width,
        height,
        channels: 1,
        data: pixels.subarray(index * width * height, (index + 1) * width * height),
      }),
      truth: classes[label],
      predicted: classes[predicted],
      confidence,
    })),
  );
}

/** FC3 of the first RepMLP, one channel: with its batch norm alone, and merged. */
async function kernels(model: Net, deploy: Net): Promise<{ layer: string; before: string; after: string }> {
  const find = (net: Net): readonly [string, RepMLP] =>
    [...net.modules()].find((entry): entry is [string, RepMLP] => entry[1] instanceof RepMLP)!;
  const [layer, block] = find(model);
  const k = new HostAlgebra();
  const before = normAfter(k, mapOf(k, block.fc3), block.fc3Bn!).weight.source().readSync();
  const after = find(deploy)[1].fc3.weight.data;
  const { partition } = block.options;
  const area = partition[0] * partition[1];
  const columns = after.size / after.shape[0];
  const shown = after.toFloat64().filter((_, i) => i < area * columns && i % columns < area);
  const scale = shown.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const [a, b] = await Promise.all(
    [before, after].map((weight) => pngUri(fcKernelPicture(weight, [partition[0], partition[1]], { scale }))),
  );
  return { layer: `${layer}.fc3`, before: a, after: b };
}
