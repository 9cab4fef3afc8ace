import * as v from "valibot";
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { isFilterSearch, isOptimizerState, isQuantizationRange } from "../checkpoint/run-entries.ts";
import { asWeights } from "../checkpoint/weights.ts";
import type { Preprocessing } from "../data/index.ts";
import { listed, must } from "../errors.ts";
import { createDetected, type DetectedModel, entriesFor, identifyState, type ModelForm } from "../models/detect.ts";
import type { ModelOptions } from "../models/family.ts";
import { familyOf, modelInfo } from "../models/registry.ts";
import type { Net } from "../nn/module.ts";
import type { TensorSource } from "../tensor/index.ts";
import { readMetadata, restoreCoefficients, type TaskMetadata } from "./metadata.ts";

export interface ReadModelOptions {
  /** Architecture. Default: found from the keys. */
  readonly arch?: string | undefined;
  /** The architecture to take where several fit. Default: the one that the file names. */
  readonly prefer?: string | undefined;
  /** Height and width of the input in pixels, other than the architecture's. */
  readonly imageSize?: number | undefined;
  readonly numClasses?: number | undefined;
  /** Further options of the architecture. Default: those that the file states, else the architecture's own. */
  readonly model?: Readonly<Record<string, unknown>> | undefined;
  /** What the network's keys begin with; others are left out. Default: found, where all keys fit then. */
  readonly prefix?: string | undefined;
}

/** What a checkpoint says of its network; no value is read. */
export interface StoredModel {
  readonly found: DetectedModel;
  /** What the network is made with beside the number of classes. */
  readonly options: ModelOptions;
  /** The state dict, under the names that the network has here. */
  readonly entries: ReadonlyMap<string, TensorSource>;
  readonly preprocessing: Preprocessing;
  /** Names of the classes, if the file has them. */
  readonly classes: readonly string[] | undefined;
  /** The task that the network is for, with what the file says of it. */
  readonly task: TaskMetadata;
  /** What was taken of several, or was not taken over, in words. */
  readonly remarks: readonly string[];
}

/** A network from a checkpoint, in evaluation mode, in the form that the file holds. */
export interface OpenedModel extends StoredModel {
  readonly net: Net;
  /** Name in the registry. */
  readonly arch: string;
  readonly form: ModelForm;
  /** Lets go of the file, from which values are read when needed. */
  close(): void;
  [Symbol.dispose](): void;
}

/**
 * What network a checkpoint holds: architecture, form and number of classes from its keys and shapes, options, class
 * names and preprocessing from its metadata. State of a training run beside it is left out.
 *
 * @throws `detect/unknown`, `detect/ambiguous`, `detect/prefix`, `detect/half-merged`, `open/options`, `open/search`
 */
export function readModel(checkpoint: Checkpoint, given: ReadModelOptions = {}): StoredModel {
  const { name: where, metadata } = checkpoint;
  const { imageSize } = given;
  mustBeWhole(checkpoint);
  const ownOptions = statedOptions(checkpoint, given.arch);
  const options = defined({
    ...ownOptions,
    ...given.model,
    imageSize: imageSize ?? given.model?.imageSize ?? ownOptions?.imageSize,
  });
  const state = modelEntries(checkpoint.entries);
  const { found, entries, taken } = identifyState(state, {
    ...{ where, prefix: given.prefix, prefer: given.prefer ?? metadata.arch },
    arch: given.arch ?? (ownOptions && metadata.arch),
    options: { ...options, numClasses: given.numClasses },
  });
  const stated = readMetadata({ metadata: picked(metadata) }, where);
  const own = modelInfo(found.name).preprocessing(options);
  const naming = familyOf(found.name).namings.find(({ name }) => name === taken.naming);
  const usual = naming?.preprocessing?.(own) ?? own;
  return {
    ...{ found, options, entries, classes: stated.labels },
    task: stated.task ?? { kind: modelInfo(found.name).task },
    preprocessing: preprocessingOf(stated.preprocessing, usual, imageSize),
    remarks: remarksOn(checkpoint, checkpoint.entries.size - state.size, taken),
  };
}

/**
 * The entries of a checkpoint under the names that an architecture has here, whether or not all of them fit: for a
 * network that takes over a part. Throws `detect/prefix` where they may stand under several prefixes.
 */
export function readEntries(
  checkpoint: Checkpoint,
  arch: string,
  prefix: string | undefined,
): Pick<StoredModel, "entries" | "remarks"> {
  mustBeWhole(checkpoint);
  const state = modelEntries(checkpoint.entries);
  const { entries, taken } = entriesFor(state, arch, { prefix, where: checkpoint.name });
  return { entries, remarks: remarksOn(checkpoint, checkpoint.entries.size - state.size, taken) };
}

/** While AOFP searches, filters that it has pruned are still there and would count again. */
function mustBeWhole({ entries, name }: Checkpoint): void {
  const key = [...entries.keys()].find(isFilterSearch);
  must(
    key === undefined,
    "open/search",
    () =>
      `${name}: AOFP was still choosing which filters of this network go ("${key}" is its state). Go on with that run (repmlp prune with --resume) and open pruned.safetensors of its folder, or open the network that it was begun with.`,
    "file",
  );
}

/** A network with a checkpoint's values behind its parameters; {@link readModel} says what is found, and throws. */
export function openModel(checkpoint: Checkpoint, options: ReadModelOptions = {}): OpenedModel {
  const stored = readModel(checkpoint, options);
  const net = createDetected(stored.found, stored.options);
  net.loadStateDict(asWeights(checkpoint.name, stored.entries));
  restoreCoefficients(net, checkpoint.metadata, checkpoint.name);
  const close = (): void => checkpoint.close();
  return { ...stored, net, arch: stored.found.name, form: stored.found.form, close, [Symbol.dispose]: close };
}

/** Options that a file states, if they are of the architecture that is wanted. */
export function statedOptions(
  { metadata, name }: Pick<Checkpoint, "metadata" | "name">,
  arch: string | undefined,
): ModelOptions | undefined {
  if (metadata.arch === undefined || metadata.options === undefined) return undefined;
  if (arch !== undefined && modelInfo(arch).name !== metadata.arch) return undefined;
  const result = v.safeParse(v.pipe(v.string(), v.parseJson(), v.record(v.string(), v.unknown())), metadata.options);
  must(
    result.success,
    "open/options",
    () => `${name}: the metadata "options" is not an object in JSON. Take it out, or write the file again.`,
    "file",
  );
  return result.output;
}

const defined = (options: Readonly<Record<string, unknown>>): ModelOptions =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));

/** Entries of a checkpoint that are a network's. */
export const modelEntries = <T>(entries: ReadonlyMap<string, T>): Map<string, T> =>
  new Map([...entries].filter(([key]) => !isOptimizerState(key) && !isQuantizationRange(key)));

/** Names of the classes that a checkpoint states. Throws `metadata/…` where they are damaged. */
export const statedClasses = ({
  metadata,
  name,
}: Pick<Checkpoint, "metadata" | "name">): readonly string[] | undefined =>
  readMetadata({ metadata: picked(metadata) }, name).labels;

/** What a network's file states; the names of its classes have another name in an ONNX file. */
const picked = ({ preprocessing, classes, labels = classes, task }: Readonly<Record<string, string>>) => ({
  ...(preprocessing !== undefined && { preprocessing }),
  ...(labels !== undefined && { labels }),
  ...(task !== undefined && { task }),
});

/** What the weights were made with goes before what the architecture usually has; another size leaves the normalisation. */
function preprocessingOf(
  stated: Preprocessing | undefined,
  usual: Preprocessing,
  imageSize: number | undefined,
): Preprocessing {
  if (!stated) return usual;
  const { inputSize, mean, std } = stated;
  const isOther = imageSize !== undefined && !inputSize.slice(1).every((d) => d === imageSize);
  return isOther ? { ...usual, mean, std } : stated;
}

type Taken = ReturnType<typeof identifyState>["taken"];

/** What was taken of a checkpoint and what was not, as sentences. */
export function remarksOn(
  { wrapper, alternatives, strippedPrefix }: Checkpoint,
  optimizer: number,
  { prefix, wrappers, naming, leftOut = [] }: Taken,
): string[] {
  const others = alternatives.map((name) => `"${name}"`).join(", ");
  const also = others ? `; there is ${others}, too (--key)` : "";
  return [
    ...(wrapper === undefined
      ? others
        ? [`the file's own state dict was taken${also}`]
        : []
      : [`the state dict was under "${wrapper}"${also}`]),
    ...(strippedPrefix ? ['a leading "module." was taken off the keys'] : []),
    ...(wrappers ?? []).map((name) => `"${name}." was taken out of the keys`),
    ...(prefix === undefined ? [] : [`a leading "${prefix}" was taken off the keys`]),
    ...(naming === undefined ? [] : [`the keys are named as in ${naming}`]),
    ...(leftOut.length ? [`${leftOut.length} tensors elsewhere were left out: ${listed(leftOut, 3)}`] : []),
    ...(optimizer ? [`${optimizer} tensors of the optimizer were left out`] : []),
  ];
}
