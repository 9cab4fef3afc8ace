import { formatOfName, saveCheckpointFile } from "../../checkpoint/node/index.ts";
import type { Preprocessing } from "../../data/index.ts";
import { must } from "../../errors.ts";
import { checkpointMetadata, coefficientMetadata } from "../../inference/metadata.ts";
import { remarksOnBatches } from "../../inference/mixing.ts";
import { type OpenModelOptions, openModelFile, openOnnx, saveOnnx } from "../../inference/node/index.ts";
import { mustHaveFiniteWeights } from "../../inference/onnx-weights.ts";
import { createModel, type ModelOptions, OnnxNet, type OnnxNetOptions, prunedShapesOf } from "../../models/index.ts";
import { countParameters, type Net } from "../../nn/index.ts";
import type { Shape } from "../../tensor/index.ts";
import { byChance, byL1, type ChooseOptions, chooseChannels } from "../choose.ts";
import { cutChannels } from "../cut.ts";
import { channelDependencies, type FixedChannels } from "../dependencies.ts";

/** How much channels matter: by their filters' mean absolute values, or drawn by a seed, to compare with. */
export const pruningMethods = {
  l1: (net: Net) => byL1(net),
  random: (_: Net, seed: number) => byChance(seed),
} as const;

export type PruningMethod = keyof typeof pruningMethods;

export interface PruneFileOptions extends Omit<ChooseOptions, "importance"> {
  /** Default `l1`. */
  readonly method?: PruningMethod;
  /** Of `random`. Default 0. */
  readonly seed?: number;
  /** How to open a checkpoint. */
  readonly open?: OpenModelOptions;
  /** How to read an ONNX model. */
  readonly onnx?: Pick<OnnxNetOptions, "output" | "imageShape">;
}

/** Channels that go together, before and after. */
export interface PrunedGroup {
  /** Key of the first weight whose filters they are. */
  readonly name: string;
  /** Number of layers that make them. */
  readonly layers: number;
  readonly before: number;
  readonly after: number;
}

export interface PrunedFile {
  /** Whether the network had been pruned before: shares are of what it had then. */
  readonly again: boolean;
  /** Architecture; of an ONNX model nothing. */
  readonly arch?: string;
  /** What should be known of the file, as sentences without their subject. */
  readonly remarks: readonly string[];
  readonly inputShape: Shape;
  readonly groups: readonly PrunedGroup[];
  readonly fixed: readonly FixedChannels[];
  /** Multiply-adds of one picture. */
  readonly macs: readonly [before: number, after: number];
  readonly parameters: readonly [before: number, after: number];
}

/**
 * Cuts the channels that matter least out of a checkpoint of a network in training form, or out of an ONNX model, and writes
 * what is left, to be fine-tuned. A checkpoint states its widths in its metadata (option `prunedShapes`), so that it opens
 * everywhere; so a checkpoint that is pruned already can be pruned further.
 *
 * @param save  `.safetensors`, `.pth`, or `.onnx` for an ONNX model
 * @throws `prune/format` for a checkpoint as ONNX or the other way round, `prune/deploy` for a merged checkpoint, and what
 *   {@link chooseChannels}, opening and writing throw
 */
export async function pruneFile(load: string, save: string, options: PruneFileOptions): Promise<PrunedFile> {
  const isOnnx = (path: string): boolean => path.toLowerCase().endsWith(".onnx");
  must(
    isOnnx(load) === isOnnx(save),
    "prune/format",
    () =>
      `prune: ${load} cannot be written as ${save}: an ONNX model stays one, a checkpoint too. Export the pruned checkpoint afterwards.`,
    "usage",
  );
  if (isOnnx(load)) {
    const model = await openOnnx(load);
    await mustHaveFiniteWeights(model, load);
    const net = new OnnxNet(model, options.onnx).eval();
    const { narrow, ...result } = pruned<OnnxNet>(net, [1, ...net.imageShape.map(Number)], options);
    await saveOnnx(save, narrow.toOnnx());
    const remarks = await remarksOnBatches(model, result.inputShape.slice(1), load);
    return { again: false, remarks, ...result };
  }
  formatOfName(save);
  using opened = await openModelFile(load, options.open);
  const { arch, form, found, net, preprocessing, classes } = opened;
  must(
    form === "train" && found.trainingForm === undefined,
    "prune/deploy",
    () =>
      `${load}: holds a merged network, whose widths a checkpoint of ${arch} cannot state. Prune the training checkpoint and convert it, or prune its ONNX export.`,
    "file",
  );
  const { narrow, ...result } = pruned(net, [1, ...preprocessing.inputSize], options);
  const { numClasses } = found;
  await savePruned(save, narrow, { arch, options: opened.options, numClasses, preprocessing, classes });
  return { arch, again: opened.options.prunedShapes !== undefined, remarks: opened.remarks, ...result };
}

/** What a pruned checkpoint states. */
export interface PrunedOf {
  readonly arch: string;
  /** Options of the network that was pruned. */
  readonly options: ModelOptions;
  readonly numClasses?: number | undefined;
  readonly preprocessing: Preprocessing;
  readonly classes?: readonly string[] | undefined;
}

/** Writes a narrower network of the registry, which then opens everywhere: its file states the widths. */
export async function savePruned(path: string, narrow: Net, of: PrunedOf): Promise<void> {
  const { arch, numClasses, preprocessing, classes } = of;
  const { prunedShapes: _, ...own } = of.options;
  const prunedShapes = prunedShapesOf(createModel(arch, { ...own, numClasses }), narrow);
  await saveCheckpointFile(path, narrow.stateDict(), {
    metadata: {
      format: "pt",
      ...checkpointMetadata({
        arch,
        options: { ...own, ...(prunedShapes && { prunedShapes }) },
        preprocessing,
        ...(classes && { classes }),
      }),
      ...coefficientMetadata(narrow),
    },
  });
}

function pruned<N extends Net>(
  net: N,
  inputShape: Shape,
  { method = "l1", seed = 0, ...options }: PruneFileOptions,
): Omit<PrunedFile, "arch" | "again" | "remarks"> & { readonly narrow: N } {
  const dependencies = channelDependencies(net, inputShape);
  const cut = chooseChannels(dependencies, { ...options, importance: pruningMethods[method](net, seed) });
  const narrow = cutChannels(net, dependencies, cut);
  const gone = new Set(cut);
  return {
    narrow,
    inputShape,
    groups: dependencies.groups.map(({ name, axes, channels }) => ({
      name,
      layers: axes.filter(({ role }) => role === "makes").length,
      before: channels.length,
      after: channels.filter((channel) => !gone.has(channel)).length,
    })),
    fixed: dependencies.fixed,
    macs: [dependencies.macs(), dependencies.macs(cut)],
    parameters: [countParameters(net), countParameters(narrow)],
  };
}
