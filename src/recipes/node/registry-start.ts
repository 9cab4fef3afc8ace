import { asWeights } from "../../checkpoint/index.ts";
import { listed, must, RepmlpError } from "../../errors.ts";
import { openModelCheckpoint } from "../../inference/node/open-model.ts";
import { readEntries, readModel, statedOptions } from "../../inference/open-model.ts";
import {
  createModel,
  familyOf,
  headKeys,
  type ModelOptions,
  modelInfo,
  type TrainingForm,
} from "../../models/index.ts";
import type { LoadReport, Net } from "../../nn/index.ts";
import { deployForm } from "../../reparam/index.ts";
import type { TensorSource } from "../../tensor/index.ts";
import { fitsPattern } from "../../text.ts";
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
  const initial = init === undefined ? undefined : await initialOf(init, options);
  const wanted = options.arch ?? recipe.arch ?? initial?.arch;
  must(
    wanted !== undefined,
    "train/arch",
    () => "train: the recipe names no architecture. Say which with -a; `repmlp models` lists them.",
    "usage",
  );
  const { name: arch, ...info } = modelInfo(wanted);
  const form = options.trainingForm === undefined ? undefined : mustHaveForm(arch, options.trainingForm, init);
  const model = { ...initial?.options, ...recipe.model, ...(imageSize !== undefined && { imageSize }) };
  const preprocessing = { ...info.preprocessing(model), ...normalization };
  const { mean, std } = preprocessing;
  return {
    ...{ name: arch, arch, options: model, preprocessing },
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

/** What the file says that a run is to start from: its architecture, and options that are not the architecture's own. */
async function initialOf(
  path: string,
  { arch, recipe, key, prefix }: StartOptions,
): Promise<{ readonly arch: string; readonly options: ModelOptions }> {
  const wanted = arch ?? recipe.arch;
  using checkpoint = await openModelCheckpoint(path, { key, prefix });
  if (wanted !== undefined) return { arch: wanted, options: statedOptions(checkpoint, wanted) ?? {} };
  const { found, options } = readModel(checkpoint, { prefix });
  return { arch: found.name, options };
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
  { allowMismatch = [], seed = 0, numClasses, trainingForm, key, prefix }: StartOptions,
): Promise<LoadReport & { readonly remarks: readonly string[] }> {
  using checkpoint = await openModelCheckpoint(path, { key, prefix });
  const { entries: stored, remarks } = readEntries(checkpoint, arch, prefix);
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
    return { ...report, missing: missing.filter((key) => !isAdded(key)), remarks };
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
