import * as v from "valibot";
import { asWeights } from "../../checkpoint/index.ts";
import { listed, must, RepmlpError } from "../../errors.ts";
import { openModelCheckpoint } from "../../inference/node/open-model.ts";
import { readEntries, readModel, statedClasses, statedOptions } from "../../inference/open-model.ts";
import {
  createModel,
  familyOf,
  headKeys,
  type ModelOptions,
  modelInfo,
  partOf,
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
  const { recipe, init, backbone, imageSize, normalization } = options;
  const { output, head, batchNorm = "frozen" } = options;
  must(
    output === undefined && head === undefined && batchNorm === "frozen",
    "train/options",
    () => "train: `output`, `head` and `batchNorm` are for ONNX models. Leave them out, or give one with `init`.",
    "usage",
  );
  must(
    init === undefined || backbone === undefined,
    "train/options",
    () => "train: `init` and `backbone` both give weights to start from. Give one of them.",
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
  const given = { ...initial?.options, ...recipe.model, ...(imageSize !== undefined && { imageSize }) };
  const model = backbone === undefined ? given : await withBackboneOptions(arch, given, backbone, options);
  const preprocessing = { ...info.preprocessing(model), ...normalization };
  const { mean, std } = preprocessing;
  return {
    ...{ name: arch, arch, options: model, task: info.task, preprocessing },
    ...(normalization && { normalization: { mean, std } }),
    async build(classes, load) {
      const create = { ...model, numClasses: classes.length };
      const whole = createModel(arch, create);
      const net = form ? form.make(deployForm(whole)) : whole;
      const head = headKeys(arch, model);
      if (backbone !== undefined && load)
        return { net, head, loaded: await loadBackbone(arch, create, net, backbone, options) };
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

/**
 * A model's options with those that the checkpoint of its backbone states, where they are not given.
 *
 * @throws `train/backbone` for a model without one, or a checkpoint of another network
 */
async function withBackboneOptions(
  arch: string,
  model: ModelOptions,
  path: string,
  { key, prefix }: StartOptions,
): Promise<ModelOptions> {
  const part = partOf(arch, model);
  must(
    part,
    "train/backbone",
    () => `train: ${arch} has no backbone. Give the weights to start from with \`init\`.`,
    "usage",
  );
  using checkpoint = await openModelCheckpoint(path, { key, prefix });
  const { imageSize: _, numClasses: __, ...stated } = statedOptions(checkpoint, part.arch) ?? {};
  const own = v.parse(v.optional(v.record(v.string(), v.unknown()), {}), model.backboneOptions);
  return Object.keys(stated).length ? { ...model, backboneOptions: { ...stated, ...own } } : model;
}

/** The weights of a network of classes into the backbone of another one; what depends on the size of the input stays new. */
async function loadBackbone(
  arch: string,
  model: ModelOptions,
  net: Net,
  path: string,
  { key, prefix, seed = 0 }: StartOptions,
): Promise<LoadReport & { readonly remarks: readonly string[] }> {
  const { prefix: place, arch: own, options } = partOf(arch, model)!;
  using checkpoint = await openModelCheckpoint(path, { key, prefix });
  const { entries: stored, remarks } = readEntries(checkpoint, own, prefix);
  const keys = new Set([...net.state()].map(([name]) => name));
  // The classifier, which a backbone does without.
  const leftOut = new Set(
    [...createModel(own, options).state()].map(([name]) => name).filter((n) => !keys.has(place + n)),
  );
  const entries = new Map<string, TensorSource>();
  for (const [name, source] of asWeights(path, stored))
    if (!leftOut.has(name)) entries.set(place + name, await source.read());
  net.initialize(seed);
  const { dependsOnSize } = familyOf(own);
  try {
    const report = net.loadStateDict(entries, { allow: (name) => !name.startsWith(place) || dependsOnSize(name) });
    return { ...report, missing: report.missing.filter((name) => name.startsWith(place)), remarks };
  } catch (error) {
    if (!(error instanceof RepmlpError) || !error.code.startsWith("state-dict/")) throw error;
    throw new RepmlpError(
      "train/backbone",
      `${path}: ${error.message}${/[.!]$/.test(error.message) ? "" : "."} The backbone of ${arch} is ${own}: give a training checkpoint of it, or say another one in the recipe: "model": { "backbone": …, "backboneOptions": { … } }.`,
      "file",
      { cause: error },
    );
  }
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

/** That a head is kept whose outputs stood for other classes than those of the data, as a sentence. */
function otherClasses(stated: readonly string[] | undefined, classes: readonly string[]): string[] {
  const at = stated?.length === classes.length ? stated.findIndex((name, i) => name !== classes[i]) : -1;
  return at < 0
    ? []
    : [
        `its head is kept, although output ${at} stood for ${stated?.[at]} and stands for ${classes[at]} now (before ${listed(stated ?? [], 3)}, now ${listed(classes, 3)}). A new head begins with --num-classes ${classes.length}.`,
      ];
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
    const told = fresh.size ? [] : otherClasses(statedClasses(checkpoint), classes);
    return { ...report, missing: missing.filter((key) => !isAdded(key)), remarks: [...remarks, ...told] };
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
