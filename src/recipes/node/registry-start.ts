import { withFc3BatchNorm } from "../../blocks/index.ts";
import { openCheckpointFile } from "../../checkpoint/node/index.ts";
import { must, RepmlpError } from "../../errors.ts";
import { createModel, detectModel, headKeys, modelInfo, type StateShapes } from "../../models/index.ts";
import type { LoadReport, Net } from "../../nn/index.ts";
import { deployForm } from "../../reparam/index.ts";
import type { TensorSource } from "../../tensor/index.ts";
import { fitsPattern } from "../recipe.ts";
import type { Start, StartOptions } from "../start.ts";

/**
 * A network of the registry as the start of a run, with initial values of its own or from a checkpoint.
 *
 * @throws `train/arch` when nothing names an architecture, `train/options` for those of ONNX models; building throws `train/init` with the keys that do not fit
 */
export async function registryStart(options: StartOptions): Promise<Start> {
  const { recipe, init, imageSize, normalization, fc3BatchNorm = false } = options;
  must(
    !fc3BatchNorm || init !== undefined,
    "train/init",
    () => "train: --fc3-batch-norm is for a merged network. Give it with --init.",
    "usage",
  );
  const { output, head, batchNorm = "frozen" } = options;
  must(
    output === undefined && head === undefined && batchNorm === "frozen",
    "train/options",
    () => "train: --output, --head and --batch-norm are for ONNX models. Leave them out, or give one with --init.",
    "usage",
  );
  const wanted = options.arch ?? recipe.arch ?? (init === undefined ? undefined : await archOf(init));
  must(
    wanted !== undefined,
    "train/arch",
    () => "train: the recipe names no architecture. Say which with -a; `repmlp models` lists them.",
    "usage",
  );
  const { name: arch, ...info } = modelInfo(wanted);
  const model = { ...recipe.model, ...(imageSize !== undefined && { imageSize }) };
  const preprocessing = { ...info.preprocessing(model), ...normalization };
  const { mean, std } = preprocessing;
  return {
    ...{ name: arch, arch, preprocessing },
    ...(normalization && { normalization: { mean, std } }),
    async build(classes, load) {
      const create = { ...model, numClasses: classes.length };
      const whole = createModel(arch, create);
      const net = fc3BatchNorm ? withFc3BatchNorm(deployForm(whole)) : whole;
      const head = headKeys(arch, model);
      if (init === undefined || !load) return { net, head };
      return { net, head, loaded: await loadInitial(net, head, classes, init, options) };
    },
  };
}

/** The state dict of a checkpoint; training runs keep the optimizer's state beside it. */
const withoutOptimizer = <T>(entries: ReadonlyMap<string, T>): Map<string, T> =>
  new Map([...entries].filter(([key]) => !key.startsWith("optimizer.")));

async function archOf(path: string): Promise<string> {
  using checkpoint = await openCheckpointFile(path);
  const { metadata, entries } = checkpoint;
  return detectModel(withoutOptimizer(entries), { where: path, prefer: metadata.arch }).name;
}

const isFc3BatchNorm = (key: string): boolean => /(^|\.)fc3_bn\./.test(key);

async function loadInitial(
  net: Net,
  head: readonly string[],
  classes: readonly string[],
  path: string,
  { allowMismatch = [], seed = 0, numClasses, fc3BatchNorm = false }: StartOptions,
): Promise<LoadReport> {
  using checkpoint = await openCheckpointFile(path);
  const stored = withoutOptimizer(checkpoint.entries);
  // A head that is to be new takes nothing from the file.
  const fresh = new Set(numClasses === undefined ? [] : head);
  const entries = new Map<string, TensorSource>();
  for (const [key, source] of stored) if (!fresh.has(key)) entries.set(key, await source.read());
  // What the file does not have keeps its initial values.
  net.initialize(seed);
  const allow = (key: string): boolean =>
    fresh.has(key) ||
    (fc3BatchNorm && isFc3BatchNorm(key)) ||
    allowMismatch.some((pattern) => fitsPattern(key, pattern));
  try {
    const { missing, ...report } = net.loadStateDict(entries, { allow });
    return { ...report, missing: missing.filter((key) => !(fc3BatchNorm && isFc3BatchNorm(key))) };
  } catch (error) {
    if (!(error instanceof RepmlpError) || !error.code.startsWith("state-dict/")) throw error;
    const advice =
      !fc3BatchNorm && isMerged(stored)
        ? "The file holds a merged network: fine-tune its training form, or this one with --fc3-batch-norm."
        : `Where a difference is wanted, allow it: --allow-mismatch "${head.length ? patternOf(head) : "linear.*"}"; --num-classes ${classes.length} asks for a new head.`;
    throw new RepmlpError(
      "train/init",
      `${path}: ${error.message}${/[.!]$/.test(error.message) ? "" : "."} ${advice}`,
      "file",
      {
        cause: error,
      },
    );
  }
}

/** Merged RepMLPs have an FC3 with a bias and no batch norm behind it. */
const isMerged = (entries: StateShapes): boolean =>
  [...entries.keys()].some((key) => key.endsWith("fc3.bias")) && ![...entries.keys()].some(isFc3BatchNorm);

/** A pattern for the keys of one layer. */
const patternOf = ([first]: readonly string[]): string => first.replace(/[^.]*$/, "*");
