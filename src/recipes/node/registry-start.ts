import { asWeights } from "../../checkpoint/index.ts";
import { openCheckpointFile } from "../../checkpoint/node/index.ts";
import { listed, must, RepmlpError } from "../../errors.ts";
import { createModel, detectModel, familyOf, headKeys, modelInfo, type TrainingForm } from "../../models/index.ts";
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
  const { recipe, init, imageSize, normalization } = options;
  const { output, head, batchNorm = "frozen" } = options;
  must(
    output === undefined && head === undefined && batchNorm === "frozen",
    "train/options",
    () => "train: `output`, `head` and `batchNorm` are for ONNX models. Leave them out, or give one with `init`.",
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
  const form = options.trainingForm === undefined ? undefined : mustHaveForm(arch, options.trainingForm, init);
  const model = { ...recipe.model, ...(imageSize !== undefined && { imageSize }) };
  const preprocessing = { ...info.preprocessing(model), ...normalization };
  const { mean, std } = preprocessing;
  return {
    ...{ name: arch, arch, preprocessing },
    ...(normalization && { normalization: { mean, std } }),
    async build(classes, load) {
      const create = { ...model, numClasses: classes.length };
      const whole = createModel(arch, create);
      const net = form ? form.make(deployForm(whole)) : whole;
      const head = headKeys(arch, model);
      if (init === undefined || !load) return { net, head };
      return { net, head, loaded: await loadInitial({ arch, whole, net, head }, classes, init, options) };
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

/** Throws `train/init` unless the family has that further form to train in, and there is a merged network to make it of. */
function mustHaveForm(arch: string, name: string, init: string | undefined): TrainingForm {
  const forms = familyOf(arch).trainingForms;
  must(
    Object.hasOwn(forms, name),
    "train/init",
    () =>
      `train: ${arch} has no training form ${name}; it has ${listed(["that with branches", ...Object.keys(forms)])}.`,
    "usage",
  );
  must(
    init !== undefined,
    "train/init",
    () => `train: ${forms[name].flag} is for a merged network. Give it with \`init\`.`,
    "usage",
  );
  return forms[name];
}

interface Initial {
  readonly arch: string;
  /** The training form with branches. */
  readonly whole: Net;
  /** What is trained. */
  readonly net: Net;
  readonly head: readonly string[];
}

async function loadInitial(
  { arch, whole, net, head }: Initial,
  classes: readonly string[],
  path: string,
  { allowMismatch = [], seed = 0, numClasses, trainingForm }: StartOptions,
): Promise<LoadReport> {
  using checkpoint = await openCheckpointFile(path);
  const stored = withoutOptimizer(checkpoint.entries);
  // A head that is to be new takes nothing from the file.
  const fresh = new Set(numClasses === undefined ? [] : head);
  const entries = new Map<string, TensorSource>();
  for (const [key, source] of asWeights(path, stored)) if (!fresh.has(key)) entries.set(key, await source.read());
  // What the file does not have keeps its initial values.
  net.initialize(seed);
  const merged = new Set([...deployForm(whole).state()].map(([key]) => key));
  const isAdded = (key: string): boolean => trainingForm !== undefined && !merged.has(key);
  const allow = (key: string): boolean =>
    fresh.has(key) || isAdded(key) || allowMismatch.some((pattern) => fitsPattern(key, pattern));
  try {
    const { missing, ...report } = net.loadStateDict(entries, { allow });
    return { ...report, missing: missing.filter((key) => !isAdded(key)) };
  } catch (error) {
    if (!(error instanceof RepmlpError) || !error.code.startsWith("state-dict/")) throw error;
    const flags = Object.values(familyOf(arch).trainingForms).map(({ flag }) => flag);
    const advice =
      trainingForm === undefined && isMerged(stored, whole, merged)
        ? `The file holds a merged network: fine-tune its training form${flags.length ? `, or this one with ${listed(flags)}` : ""}.`
        : `Where a difference is wanted, allow it: \`allowMismatch\` "${head.length ? patternOf(head) : "linear.*"}"; \`numClasses\` ${classes.length} asks for a new head.`;
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

/** Whether all is there that only the merged form has, and nothing that only the other has. */
function isMerged(entries: ReadonlyMap<string, unknown>, whole: Net, merged: ReadonlySet<string>): boolean {
  const branches = new Set([...whole.state()].map(([key]) => key));
  const own = [...merged].filter((key) => !branches.has(key));
  return (
    own.length > 0 &&
    own.every((key) => entries.has(key)) &&
    ![...branches].some((key) => !merged.has(key) && entries.has(key))
  );
}

/** A pattern for the keys of one layer. */
const patternOf = ([first]: readonly string[]): string => first.replace(/[^.]*$/, "*");
