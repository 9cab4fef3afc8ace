import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { sparseEntries } from "../../checkpoint/index.ts";
import { openCheckpointFile, saveCheckpointFile, writeFileAtomically } from "../../checkpoint/node/index.ts";
import { DataLoader, type Dataset } from "../../data/index.ts";
import { must } from "../../errors.ts";
import { type Difference, verifyEquivalence, writeMetadata } from "../../inference/index.ts";
import { openModelFile, saveOnnx } from "../../inference/node/index.ts";
import { OnnxNet } from "../../models/index.ts";
import { countMacs, countParameters, type Module, type Net } from "../../nn/index.ts";
import { afterPruning, type PruneSettings, type Pruning, pruningOf, trainsFirst, zerosOf } from "../../prune/index.ts";
import { savePruned } from "../../prune/node/prune-file.ts";
import { convertToDeploy } from "../../reparam/index.ts";
import { type CurveChart, chartsSvg } from "../../report/node/curves.ts";
import { classification, evaluateTask, type ShownTask } from "../../tasks/index.ts";
import { type Shape, sameShape, type Tensor } from "../../tensor/index.ts";
import type { EpochRecord, TrainingEvent } from "../../training/index.ts";
import { claimRunFolder } from "../../training/node/run-folder.ts";
import { onnxStart } from "./onnx-start.ts";
import { registryStart } from "./registry-start.ts";
import { type TrainOptions, type TrainResult, train } from "./train.ts";
import { openTrainingData, type TrainingData } from "./training-data.ts";

/** The two trainings of a run: with the method, and on what is left. */
export type PrunePhase = "prune" | "fine-tune";

export interface PruneOptions extends Omit<TrainOptions, "prepare" | "onEvent" | "init"> {
  /** The trained network: a checkpoint in training form, or an ONNX model. */
  readonly init: string;
  /** Of method `ticket`: the checkpoint of the sparse network whose zeros are taken. */
  readonly mask?: string;
  readonly onEvent?: (event: TrainingEvent, task: ShownTask, phase: PrunePhase) => void;
  /** Told once what should be known of the network that was given, as sentences without their subject. */
  readonly onRemarks?: (remarks: readonly string[]) => void;
  /** Told when the network is cut. */
  readonly onCut?: (cut: CutNetwork) => void;
}

/** A layer whose widths have changed. */
export interface ChangedLayer {
  readonly key: string;
  readonly before: Shape;
  readonly after: Shape;
}

type BeforeAndAfter = readonly [before: number, after: number];

/** A network before and after it was cut. */
export interface CutNetwork {
  /** Whether the network had been pruned before: shares are of what it had then. */
  readonly again: boolean;
  readonly method: PruneSettings["method"];
  /** Weights that are narrower. */
  readonly layers: readonly ChangedLayer[];
  /** Of the merged networks, for one picture. */
  readonly macs: BeforeAndAfter;
  readonly parameters: BeforeAndAfter;
  /** By weight, where the method makes zeros. */
  readonly zeros?: ReturnType<typeof zerosOf>;
  /** Of the file that was given and of what is written. */
  readonly bytes: BeforeAndAfter;
  /** Shares of the validation pictures: of the network as it was given, as the method has trained it, and as it is cut. */
  readonly top1: { readonly given: number; readonly trained: number; readonly cut: number };
  /** Validation pictures per second in the merged networks alone: a rough measure. */
  readonly imagesPerSecond: BeforeAndAfter;
  /** How far the outputs of the cut network are from the trained one's, on validation pictures. */
  readonly exactness: Omit<Difference, "path"> & { readonly agree: number; readonly total: number };
  /** Epochs of the method's training. */
  readonly history: readonly EpochRecord[];
}

export interface PruneResult extends Partial<CutNetwork> {
  readonly name: string;
  readonly arch?: string;
  /** False when the run was stopped; it can be resumed. */
  readonly finished: boolean;
  readonly folder: string;
  /** The cut network, before fine-tuning. */
  readonly pruned?: string;
  /** Where the method makes zeros: the result with its other weights alone. */
  readonly sparse?: { readonly path: string; readonly bytes: number };
  /** The result: the fine-tuned network where it was fine-tuned. */
  readonly weights?: string;
  /** Top-1 after fine-tuning. */
  readonly tuned?: number;
  /** Accuracy and multiply-adds over the epochs. */
  readonly plot?: string;
  readonly unreadable: readonly string[];
}

/** What the first training leaves for the second, also of a run that is resumed. */
const REPORT = "pruning.json";

/** Pictures on which the cut network is compared with the trained one. */
const COMPARED = 64;

/**
 * Prunes a trained network on a data set, by a recipe whose entry `prune` says how: trains with the method, cuts, and trains
 * on what is left. Writes into `folder`: `prune/` (the method's training, as {@link train} does), `pruned.safetensors` or
 * `pruned.onnx`, `fine-tune/` (training on), `pruning.json` and `pruning.svg`. With `resume` it goes on where it was stopped,
 * to the bit.
 *
 * @throws `prune/recipe` for a recipe that does not say how to prune, `prune/none`, `prune/layer`, `prune/target`, `prune/compactors`,
 *   and what {@link train} throws
 */
export async function prune(given: PruneOptions): Promise<PruneResult> {
  const options = { ...given, ...(await preparationOf(given)) };
  const { recipe, folder, init, resume = false, overwrite = false } = options;
  const { prune: how, ...training } = recipe;
  must(
    how,
    "prune/recipe",
    () => 'prune: the recipe does not say how to prune. Choose one with an entry "prune", or say --method.',
    "usage",
  );
  const { fineTune, ...settings } = how;
  const isOnnx = /\.onnx$/i.test(init);
  const start = await (isOnnx ? onnxStart(init, options) : registryStart(options));
  must(
    start.options?.compactors === undefined,
    "prune/compactors",
    () =>
      `${init}: has compactors: ResRep has begun with it. Go on with that run (--resume), or give the network that it was begun with.`,
    "usage",
  );
  const mask = options.mask === undefined ? undefined : await weightsOf(options.mask);
  const claim = claimRunFolder(folder, { resume, overwrite, results });
  const at = (name: string): string => join(folder, name);
  const pruned = at(isOnnx ? "pruned.onnx" : "pruned.safetensors");
  const data = await openTrainingData(options.data, {
    ...{ augment: recipe.augment, preprocessing: start.preprocessing, normalization: start.normalization },
    ...{ workers: options.workers, onUnreadable: () => {} },
    ...(options.kind && { kind: options.kind }),
  });
  const { classes, imageShape } = data.train;
  const inputShape = [1, ...imageShape];
  const seed = options.seed ?? 0;
  const preparing = (net: Net, stepsPerEpoch: number): Pruning =>
    pruningOf({ net, inputShape, stepsPerEpoch, seed, mask }, settings);
  const unreadable = new Set<string>();
  const base = { name: start.name, ...(start.arch && { arch: start.arch }), folder };
  try {
    claim.clear();
    const done = resume && existsSync(pruned) ? savedCut(at(REPORT)) : undefined;
    let cut: CutNetwork;
    if (done) cut = done;
    else {
      let prepared: Pruning | undefined;
      let result: TrainResult | undefined;
      if (trainsFirst(settings)) {
        result = await train({
          ...options,
          recipe: training,
          folder: at("prune"),
          prepare: (net, { stepsPerEpoch }) => {
            prepared = preparing(net, stepsPerEpoch);
            return preparedOf(prepared);
          },
          onEvent: (event, task) => options.onEvent?.(event, task, "prune"),
        });
        for (const path of result.unreadable) unreadable.add(path);
        if (!result.summary.finished) return { ...base, finished: false, unreadable: [...unreadable] };
      } else prepared = preparing((await start.build(classes, true)).net, 1);
      const { net: asGiven, remarks = [] } = await start.build(classes, true);
      const whole = asGiven.eval();
      options.onRemarks?.(remarks);
      const trained = prepared!.net.eval();
      const narrow = (await prepared!.finish()).eval();
      if (narrow instanceof OnnxNet)
        await saveOnnx(pruned, narrow.toOnnx(writeMetadata({ preprocessing: data.preprocessing, labels: classes })));
      else
        await savePruned(pruned, narrow, {
          arch: start.arch!,
          options: start.options ?? {},
          numClasses: classes.length,
          preprocessing: data.preprocessing,
          classes,
        });
      cut = await compared(
        { whole, trained, narrow, inputShape, data, threads: options.threads },
        {
          method: settings.method,
          again: start.options?.prunedShapes !== undefined,
          bytes: [init, pruned].map((path) => statSync(path).size) as unknown as BeforeAndAfter,
          history: result?.summary.history ?? [],
        },
      );
      await writeText(at(REPORT), JSON.stringify(cut, undefined, 2));
    }
    options.onCut?.(cut);
    const tuned = fineTune?.epochs ? await tune(fineTune.epochs, fineTune.lr) : undefined;
    if (tuned && !tuned.summary.finished)
      return { ...base, ...cut, pruned, finished: false, unreadable: [...unreadable] };
    const history = tuned?.summary.history ?? [];
    const top1 = history.at(-1)?.validationTop1;
    const weights = tuned?.onnx ?? tuned?.weights ?? pruned;
    const sparse = cut.zeros && !isOnnx ? await saveSparse(weights, at("sparse.safetensors")) : undefined;
    const plot = at("pruning.svg");
    await writeText(plot, await chartsSvg(`${start.name}, ${settings.method}`, chartsOf(cut, history)));
    await writeText(
      at(REPORT),
      JSON.stringify({ ...cut, ...(top1 !== undefined && { tuned: top1 }), tuning: history }, undefined, 2),
    );
    return {
      ...{ ...base, ...cut, pruned, plot, finished: true, unreadable: [...unreadable] },
      weights,
      ...(sparse && { sparse }),
      ...(top1 !== undefined && { tuned: top1 }),
    };
  } finally {
    claim.release();
    await data.close();
  }

  async function tune(epochs: number, lr: number | undefined): Promise<TrainResult> {
    const own = at("fine-tune");
    const { kind, threads, workers, signal, output, batchNorm, imageSize, normalization, onUnreadable } = options;
    const { arch: _, ...rest } = training;
    const rule = afterPruning(settings);
    const result = await train({
      ...{ data: options.data, threads, seed },
      ...{ init: pruned, folder: own, overwrite, resume: resume && existsSync(join(own, "last.safetensors")) },
      ...defined({ kind, workers, signal, output, batchNorm, imageSize, normalization, onUnreadable }),
      recipe: { ...rest, model: {}, epochs, lr: lr ?? recipe.lr, schedule: { kind: "cosine" } },
      ...(rule && { prepare: (net: Net) => ({ net, rule }) }),
      onEvent: (event, task) => options.onEvent?.(event, task, "fine-tune"),
    });
    for (const path of result.unreadable) unreadable.add(path);
    return result;
  }
}

/** A network is pruned on pictures that are prepared as those it was trained on. */
async function preparationOf({
  init,
  normalization,
  ...options
}: PruneOptions): Promise<Pick<PruneOptions, "normalization">> {
  if (normalization) return { normalization };
  if (/\.onnx$/i.test(init)) return {};
  const { arch = options.recipe.arch, key, prefix } = options;
  using opened = await openModelFile(init, { arch, key, prefix });
  const { mean, std } = opened.preprocessing;
  return { normalization: { mean, std } };
}

/** What is there of some options. */
const defined = <T extends object>(given: T): { readonly [K in keyof T]: T[K] & {} } =>
  Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as never;

/** What a run leaves in its folder. */
const results = [
  "prune",
  "fine-tune",
  "pruned.safetensors",
  "pruned.onnx",
  "sparse.safetensors",
  REPORT,
  "pruning.svg",
] as const;

/** What a method's training runs with. */
const preparedOf = ({ net, rule, group, compactors, share }: Pruning) => ({
  ...{ net, rule, group },
  ...(compactors && { options: { compactors } }),
  measures: (): Readonly<Record<`train${string}`, number>> => {
    const left = share();
    return left === undefined ? {} : { trainMultiplyAdds: left };
  },
});

async function weightsOf(path: string): Promise<ReadonlyMap<string, Tensor>> {
  using opened = await openModelFile(path);
  const read = [...opened.net.state()].map(async ([key, p]) => [key, await p.source().read()] as const);
  return new Map(await Promise.all(read));
}

/** Writes a checkpoint once more, without its zeros. */
async function saveSparse(weights: string, path: string): Promise<NonNullable<PruneResult["sparse"]>> {
  using checkpoint = await openCheckpointFile(weights);
  const { entries, metadata } = sparseEntries(checkpoint.entries);
  await saveCheckpointFile(path, entries, { metadata: { ...checkpoint.metadata, ...metadata } });
  return { path, bytes: statSync(path).size };
}

function savedCut(path: string): CutNetwork | undefined {
  if (!existsSync(path)) return undefined;
  // Written by this program; with anything else the cut is made again.
  const found = JSON.parse(readFileSync(path, "utf8")) as Partial<CutNetwork>;
  return found.method && found.macs && found.history ? (found as CutNetwork) : undefined;
}

const writeText = (path: string, text: string): Promise<void> =>
  writeFileAtomically(path, async (sink) => {
    await sink.write(new TextEncoder().encode(text));
  });

interface Compared {
  readonly whole: Net;
  readonly trained: Net;
  readonly narrow: Net;
  readonly inputShape: Shape;
  readonly data: TrainingData;
  readonly threads: number | undefined;
}

/** Measures what was lost and won. */
async function compared(
  { whole, trained, narrow, inputShape, data, threads }: Compared,
  facts: Pick<CutNetwork, "method" | "again" | "bytes" | "history">,
): Promise<CutNetwork> {
  const [big, small] = [convertToDeploy(whole), convertToDeploy(narrow)];
  const evaluated = async (net: Net) => {
    const { numbers, pictures, seconds } = await evaluateTask(classification(), net, data.validation, { threads });
    return { top1: numbers.top1, imagesPerSecond: pictures / seconds };
  };
  const before = await evaluated(big);
  const after = await evaluated(small);
  const last = facts.history.at(-1)?.validationTop1;
  const inputs = await firstPictures(data.validation);
  const { maxAbs, maxRel, top1 } = await verifyEquivalence(trained, narrow, { inputs, threads });
  const zeros = zerosOf(narrow);
  return {
    ...facts,
    layers: changedLayers(whole, narrow),
    macs: [countMacs(big, inputShape), countMacs(small, inputShape)],
    parameters: [countParameters(big), countParameters(small)],
    ...(Object.values(zeros).some((layer) => layer.zeros > 0) && { zeros }),
    top1: { given: before.top1, trained: last ?? before.top1, cut: after.top1 },
    imagesPerSecond: [before.imagesPerSecond, after.imagesPerSecond],
    exactness: { maxAbs, maxRel, ...top1 },
  };
}

async function firstPictures(data: Dataset): Promise<Tensor> {
  const batchSize = Math.min(COMPARED, data.length);
  for await (const { images } of new DataLoader(data, { batchSize })) return images;
  throw new Error("internal: a data set without pictures");
}

/** Weights whose shapes differ. */
export function changedLayers(whole: Module, narrow: Module): ChangedLayer[] {
  const now = new Map([...narrow.state()].map(([key, { shape }]) => [key, shape]));
  return [...whole.state()].flatMap(([key, { shape }]): ChangedLayer[] => {
    const after = now.get(key);
    return after && shape.length > 1 && !sameShape(shape, after) ? [{ key, before: shape, after }] : [];
  });
}

/** Accuracy and cost over the epochs of both trainings. */
function chartsOf({ history, top1, macs }: CutNetwork, tuning: readonly EpochRecord[]): readonly CurveChart[] {
  const first = history.length;
  const total = Math.max(1, first + tuning.length);
  const percent = (share: number | undefined): number => 100 * (share ?? Number.NaN);
  const points = (key: "trainTop1" | "validationTop1"): [number, number][] => [
    ...history.map((r): [number, number] => [r.epoch, percent(r[key])]),
    ...tuning.map((r): [number, number] => [first + r.epoch, percent(r[key])]),
  ];
  const left = (100 * macs[1]) / macs[0];
  const x = { xLabel: "epoch", xRange: [0, total] } as const;
  return [
    {
      series: [
        { name: "training", dots: true, points: points("trainTop1") },
        { name: "test", dots: true, points: [[0, percent(top1.given)], ...points("validationTop1")] },
        { name: "when cut", dots: true, points: [[first, percent(top1.cut)]] },
      ],
      options: { ...x, title: "Top-1", yLabel: "top-1, %" },
    },
    {
      series: [
        {
          name: "multiply-adds that are left",
          dots: true,
          points: [
            [0, 100],
            ...history.flatMap((r): [number, number][] =>
              r.trainMultiplyAdds === undefined ? [] : [[r.epoch, percent(r.trainMultiplyAdds)]],
            ),
            [first, left],
            [total, left],
          ],
        },
      ],
      options: { ...x, title: "Multiply-adds", yLabel: "left, %" },
    },
  ];
}
