import { RepMLP, withFc3BatchNorm } from "../blocks/index.ts";
import { fmt, listed, must, RepmlpError } from "../errors.ts";
import type { Module, Net } from "../nn/index.ts";
import { deployForm } from "../reparam/index.ts";
import { type Shape, sameShape } from "../tensor/index.ts";
import { type CreateOptions, createModel, listModels, modelInfo } from "./registry.ts";

/** Which of the two forms of a network a state dict belongs to. */
export type ModelForm = "train" | "deploy";

/** What the keys and shapes of a state dict say about the network it belongs to. */
export interface DetectedModel {
  /** Name in the registry. */
  readonly name: string;
  readonly form: ModelForm;
  /** Outputs of the network's head; the architecture's default where the head does not depend on it. */
  readonly numClasses: number | undefined;
  /** A training form made of the merged one: a batch norm after each FC3 and nothing else; see `withFc3BatchNorm`. */
  readonly fc3BatchNorm?: true;
}

/** Keys and shapes; values are not needed. */
export type StateShapes = ReadonlyMap<string, { readonly shape: Shape }>;

export interface DetectOptions {
  /** Only this architecture is considered. */
  readonly arch?: string;
  /** The architecture to take where several have these keys and shapes, such as the one a file's metadata name. */
  readonly prefer?: string | undefined;
  /** Options of the architecture other than its defaults (`imageSize`, …). */
  readonly options?: CreateOptions & Readonly<Record<string, unknown>>;
  /** What to call the state dict in errors. Default `checkpoint`. */
  readonly where?: string;
}

/** What a state dict may be of; a merged network with batch norms after FC3 is one way to train. */
type Shaping = ModelForm | "fc3BatchNorm";
const shapings: readonly Shaping[] = ["train", "deploy", "fc3BatchNorm"];

/**
 * Finds architecture, form and number of classes from the keys and shapes of a state dict. Counters
 * (`num_batches_tracked`) may be absent.
 *
 * @throws `detect/unknown` naming the nearest architecture and how the keys or shapes differ from it;
 *   `detect/ambiguous` when several architectures have these keys and shapes, and none of them is preferred
 */
export function detectModel(
  entries: StateShapes,
  { arch, prefer, options = {}, where }: DetectOptions = {},
): DetectedModel {
  const file = where ?? "checkpoint";
  const names = arch === undefined ? buildable(options) : [modelInfo(arch).name];
  // Most files hold the training form, which is the cheaper one to build.
  for (const form of shapings) {
    const found = names.flatMap((name) => (hasKeysOf(entries, name, form, options) ? [name] : []));
    const fitting = found
      .map((name) => candidate(name, form, entries, options))
      .filter((c) => !compare(c, entries).count);
    const preferred = fitting.find((c) => c.name === prefer);
    if (!preferred) mustBeOne(fitting, file);
    const one = preferred ?? fitting.at(0);
    if (one)
      return {
        name: one.name,
        form: form === "deploy" ? "deploy" : "train",
        numClasses: one.numClasses,
        ...(form === "fc3BatchNorm" && { fc3BatchNorm: true }),
      };
  }
  const form = [...entries.keys()].some((key) => key.endsWith("running_var")) ? "train" : "deploy";
  const differences = names.map((name) => compare(candidate(name, form, entries, options), entries));
  const nearest = differences.reduce((a, b) => (b.count < a.count ? b : a));
  throw new RepmlpError("detect/unknown", unknownMessage(nearest, arch, file), "model");
}

/** Architectures that exist with these options; another image size, say, does not suit all. */
function buildable(options: Options): string[] {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const names = listModels().filter((name) => !given.length || isBuildable(name, options));
  must(
    names.length,
    "detect/options",
    () => `no architecture can be built with ${given.map(([name, value]) => `${name} ${value}`).join(", ")}`,
    "usage",
  );
  return names;
}

function isBuildable(name: string, options: Options): boolean {
  try {
    createModel(name, options);
    return true;
  } catch (error) {
    if (error instanceof RepmlpError) return false;
    throw error;
  }
}

function mustBeOne(fitting: readonly Candidate[], where: string): void {
  must(
    fitting.length < 2,
    "detect/ambiguous",
    () => `${where}: fits ${listed(fitting.map((c) => c.name))} alike. Name the architecture (-a on the command line).`,
    "usage",
  );
}

/** A network in the form that a state dict belongs to, in evaluation mode, without values. */
export function createDetected(
  { name, form, numClasses, fc3BatchNorm }: DetectedModel,
  options: CreateOptions & Readonly<Record<string, unknown>> = {},
): Net {
  return shaped(createModel(name, { ...options, numClasses }).eval(), fc3BatchNorm ? "fc3BatchNorm" : form).eval();
}

function shaped<M extends Module>(model: M, shaping: Shaping): M {
  if (shaping === "train") return model;
  const merged = deployForm(model);
  return shaping === "deploy" ? merged : withFc3BatchNorm(merged);
}

interface Candidate {
  readonly name: string;
  readonly form: Shaping;
  readonly numClasses: number | undefined;
  readonly shapes: ReadonlyMap<string, Shape>;
}

type Options = NonNullable<DetectOptions["options"]>;

const built = new Map<string, Module>();

/** A network without values. Kept: it takes long to build and merge, and every file is compared with all of them. */
function build(name: string, form: Shaping, options: Options): Module {
  const asked = JSON.stringify([name, form, options]);
  const model = built.get(asked) ?? shaped(createModel(name, options), form);
  built.set(asked, model);
  return model;
}

const shapesOf = (name: string, form: Shaping, options: Options): Map<string, Shape> =>
  new Map([...build(name, form, options).state()].map(([key, p]) => [key, p.shape]));

const isCounter = (key: string): boolean => key.endsWith("num_batches_tracked");

/** Networks without RepMLP have nothing to put a batch norm after. */
const hasRepMLP = (name: string, options: Options): boolean =>
  [...build(name, "train", options).modules()].some(([, m]) => m instanceof RepMLP);

/** Whether the keys are those of an architecture, whatever the shapes. Ends at the first key that is not. */
function hasKeysOf(entries: StateShapes, name: string, form: Shaping, options: Options): boolean {
  if (form === "fc3BatchNorm" && !hasRepMLP(name, options)) return false;
  const own = new Set<string>();
  for (const [key] of build(name, form, options).state()) {
    if (!entries.has(key) && !isCounter(key)) return false;
    own.add(key);
  }
  return [...entries.keys()].every((key) => own.has(key) || isCounter(key));
}

/** One form of an architecture, with the number of classes that the head in `entries` has. */
function candidate(name: string, form: Shaping, entries: StateShapes, options: Options): Candidate {
  const numClasses = options.numClasses ?? classesOf(name, entries, options);
  return { name, form, numClasses, shapes: shapesOf(name, form, { ...options, numClasses }) };
}

/** The head of an architecture is what changes with the number of classes: keys, and the axis of the classes. */
function* headOf(name: string, options: Options): Iterable<readonly [key: string, axis: number]> {
  const [a, b] = [11, 13].map((numClasses) => shapesOf(name, "train", { ...options, numClasses }));
  for (const [key, shape] of a) {
    const other = b.get(key);
    const axis = shape.findIndex((d, i) => d === 11 && other?.[i] === 13);
    if (axis >= 0) yield [key, axis];
  }
}

/** Keys of an architecture's head: what depends on the number of classes. */
export const headKeys = (name: string, options: Options = {}): string[] =>
  [...headOf(name, options)].map(([key]) => key);

function classesOf(name: string, entries: StateShapes, options: Options): number | undefined {
  for (const [key, axis] of headOf(name, options)) {
    const found = entries.get(key)?.shape[axis];
    if (found) return found;
  }
  return undefined;
}

interface Difference {
  readonly candidate: Candidate;
  readonly missing: readonly string[];
  readonly unexpected: readonly string[];
  /** Keys whose shape differs, with both shapes. */
  readonly reshaped: readonly string[];
  /** Keys that do not fit. */
  readonly count: number;
}

function compare(candidate: Candidate, entries: StateShapes): Difference {
  const { shapes } = candidate;
  const missing = [...shapes.keys()].filter((key) => !entries.has(key) && !isCounter(key));
  const unexpected = [...entries.keys()].filter((key) => !shapes.has(key) && !isCounter(key));
  const reshaped = [...shapes].flatMap(([key, shape]) => {
    const found = entries.get(key)?.shape;
    return found && !sameShape(found, shape) ? [`${key} is ${fmt(found)} instead of ${fmt(shape)}`] : [];
  });
  return { candidate, missing, unexpected, reshaped, count: missing.length + unexpected.length + reshaped.length };
}

const words: Readonly<Record<Shaping, string>> = {
  train: "training form",
  deploy: "deploy form",
  fc3BatchNorm: "merged form with batch norms after FC3",
};

function unknownMessage(difference: Difference, arch: string | undefined, where: string): string {
  const { candidate, missing, unexpected, reshaped } = difference;
  const part = (title: string, names: readonly string[]): string =>
    names.length ? ` ${title} ${names.length}: ${listed(names, 3)}.` : "";
  const form = words[candidate.form];
  const head = arch
    ? `${where}: does not hold ${candidate.name}. Compared with its ${form}:`
    : `${where}: no known architecture has these keys and shapes. Nearest is the ${form} of ${candidate.name}:`;
  const advice = arch ? "Give another architecture." : "Name the architecture (and image size) if it is one of those.";
  return `${head}${part("missing", missing)}${part("unexpected", unexpected)}${part("other shapes", reshaped)} ${advice}`;
}

/** Throws `detect/form` unless a state dict is of the wanted form. */
export function mustBeForm(found: DetectedModel, wanted: ModelForm, where = "checkpoint"): void {
  const words = { train: "the training form", deploy: "the deploy form (already merged)" } as const;
  must(
    found.form === wanted,
    "detect/form",
    () =>
      `${where}: holds ${words[found.form]} of ${found.name}, not ${words[wanted]}. Say "${found.form}", or load the other file.`,
    "model",
  );
}
