import { fmt, listed, must, RepmlpError } from "../errors.ts";
import type { Module, Net } from "../nn/index.ts";
import { deployForm } from "../reparam/index.ts";
import { type Shape, sameShape } from "../tensor/index.ts";
import type { Family, ModelOptions } from "./family.ts";
import { type NamedState, namedStates, type Taken } from "./naming.ts";
import { createModel, families, familyOf, modelInfo } from "./registry.ts";

/** Which of the two forms of a network a state dict belongs to. */
export type ModelForm = "train" | "deploy";

/** What the keys and shapes of a state dict say about the network it belongs to. */
export interface DetectedModel {
  /** Name in the registry. */
  readonly name: string;
  readonly form: ModelForm;
  /** Outputs of the network's head; the architecture's default where the head does not depend on it. */
  readonly numClasses: number | undefined;
  /** One of the family's further training forms, made of the merged one, such as `fc3BatchNorm`. */
  readonly trainingForm?: string;
}

/** Keys and shapes; values are not needed. */
export type StateShapes = ReadonlyMap<string, { readonly shape: Shape }>;

export interface DetectOptions {
  /** Only this architecture is considered. */
  readonly arch?: string | undefined;
  /** The architecture to take where several have these keys and shapes, such as the one a file's metadata name. */
  readonly prefer?: string | undefined;
  /** Options of the architecture other than its defaults (`imageSize`, …). */
  readonly options?: ModelOptions;
  /** What the network's keys begin with; keys without it are left out. Default: what makes the keys fit. */
  readonly prefix?: string | undefined;
  /** What to call the state dict in errors. Default `checkpoint`. */
  readonly where?: string;
}

/** A state dict whose network is known, under the names that it has here. */
export interface IdentifiedState<T> {
  readonly found: DetectedModel;
  readonly entries: ReadonlyMap<string, T>;
  readonly taken: Taken;
}

/**
 * Finds architecture, form and number of classes from the keys and shapes of a state dict. Counters
 * (`num_batches_tracked`) may be absent; keys may have a prefix, wrappers' names in them, or the names of timm.
 *
 * @throws `detect/unknown` naming the nearest architecture and how the keys or shapes differ from it;
 *   `detect/ambiguous` when several architectures have these keys and shapes, and none of them is preferred;
 *   `detect/prefix` when the keys have prefixes and fit only in part; `detect/half-merged` naming a merged block;
 *   `detect/statistics` when only running statistics are missing
 */
export const detectModel = (entries: StateShapes, options: DetectOptions = {}): DetectedModel =>
  identifyState(entries, options).found;

/** As {@link detectModel}, with the state dict under the names that the network has here. */
export function identifyState<T extends { readonly shape: Shape }>(
  entries: ReadonlyMap<string, T>,
  options: DetectOptions = {},
): IdentifiedState<T> {
  const { where = "checkpoint", arch } = options;
  mustHavePrefix([...entries.keys()], options.prefix, where);
  const plausible = readingsOf(entries, options);
  must(plausible.length, "detect/unknown", () => strangeMessage(where, [...entries.keys()]), "model");
  const readings = mustBeBuildable(plausible, options.options ?? {});
  // Most files hold the training form, which is the cheaper one to build.
  for (const whole of [true, false])
    for (const shaping of ["train", "deploy", "extra"] as const) {
      const fitting = readings.filter((r) => r.state.whole === whole).flatMap((r) => fittingOf(r, shaping, options));
      if (!whole) mustBeWhole(fitting, where);
      const preferred = fitting.find((c) => c.name === options.prefer);
      const different = withoutAlike(fitting);
      if (!preferred) mustBeOne(different, where);
      const one = preferred ?? different.at(0);
      if (one) return { found: one.found, entries: one.state.entries, taken: one.state.taken };
    }
  throw nearestError(readings, arch, where, options.options ?? {});
}

/** Entries under the names of one architecture, whether or not they fit it; all of them, unless a prefix is asked for. */
export function entriesFor<T extends { readonly shape: Shape }>(
  entries: ReadonlyMap<string, T>,
  arch: string,
  { prefix, where = "checkpoint" }: Pick<DetectOptions, "prefix" | "where">,
): Pick<IdentifiedState<T>, "entries" | "taken"> {
  mustHavePrefix([...entries.keys()], prefix, where);
  const states = namedStates(entries, familyOf(arch), prefix);
  const prefixes = states.map(({ taken }) => taken.prefix ?? "");
  must(states.length < 2, "detect/prefix", () => `${where}: ${severalPrefixes(prefixes)}`, "usage");
  const { taken, ...state } = states.at(0) ?? plain(entries);
  if (state.whole) return { entries: state.entries, taken };
  const { leftOut: _, ...rest } = taken;
  // They may belong to the network under some other name; who loads them says that they do not fit.
  return { entries: new Map([...state.entries, ...state.others]), taken: rest };
}

const severalPrefixes = (prefixes: readonly string[]): string =>
  `holds a network under each of ${prefixes.map((p) => `"${p}"`).join(", ")}. Say which: --prefix ${prefixes[0]} on the command line.`;

/** Throws `detect/prefix` unless some key begins with the prefix that is asked for. */
export function mustHavePrefix(keys: readonly string[], prefix: string | undefined, where: string): void {
  must(
    !prefix || keys.some((key) => key.startsWith(prefix)),
    "detect/prefix",
    () =>
      `${where}: no key begins with "${prefix}"; there are ${listed(keys, 3)}. Leave --prefix out to have it found.`,
    "usage",
  );
}

/** A state dict read as one of a family's, and the architectures that it may be. */
interface Reading<T> {
  readonly family: Family;
  readonly names: readonly string[];
  readonly state: NamedState<T>;
}

function readingsOf<T extends { readonly shape: Shape }>(
  entries: ReadonlyMap<string, T>,
  { arch, prefix }: DetectOptions,
): Reading<T>[] {
  if (arch === undefined)
    return families.flatMap((family) =>
      namedStates(entries, family, prefix).map((state) => ({ family, names: Object.keys(family.variants), state })),
    );
  const family = familyOf(arch);
  const names = [modelInfo(arch).name];
  const states = namedStates(entries, family, prefix);
  // What was named is compared in any case, to say how it differs.
  return (states.length ? states : [plain(entries)]).map((state) => ({ family, names, state }));
}

const plain = <T>(entries: ReadonlyMap<string, T>): NamedState<T> => ({
  entries,
  whole: true,
  others: new Map(),
  taken: {},
});

/** Architectures that exist with these options; another image size, say, does not suit all. */
function mustBeBuildable<T>(readings: readonly Reading<T>[], options: ModelOptions): Reading<T>[] {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  if (!given.length) return [...readings];
  const left = readings
    .map((r) => ({
      ...r,
      names: r.names.length === 1 ? r.names : r.names.filter((name) => isBuildable(name, options)),
    }))
    .filter(({ names }) => names.length);
  must(
    left.length,
    "detect/options",
    () => `no architecture can be built with ${given.map(([name, value]) => `${name} ${value}`).join(", ")}`,
    "usage",
  );
  return left;
}

function isBuildable(name: string, options: ModelOptions): boolean {
  try {
    createModel(name, options);
    return true;
  } catch (error) {
    if (error instanceof RepmlpError) return false;
    throw error;
  }
}

interface Fitting<T> extends Candidate {
  readonly found: DetectedModel;
  readonly state: NamedState<T>;
}

/** Architectures of a reading that have its keys and shapes in a form. */
function fittingOf<T extends { readonly shape: Shape }>(
  { family, names, state }: Reading<T>,
  shaping: "train" | "deploy" | "extra",
  { options = {} }: DetectOptions,
): Fitting<T>[] {
  const keys = [...state.entries.keys()];
  const extra = Object.entries(family.trainingForms)
    .filter(([, { keyPart = "" }]) => keys.some((key) => key.includes(keyPart)))
    .map(([form]) => form);
  const forms = shaping === "extra" ? extra : [shaping];
  return forms.flatMap((form) =>
    names
      .filter((name) => hasKeysOf(state.entries, name, form, options))
      .map((name) => candidate(name, form, state.entries, options))
      .filter((c) => !compare(c, state.entries).count)
      .map((c) => ({
        ...c,
        state,
        found: {
          name: c.name,
          form: form === "deploy" ? "deploy" : "train",
          numClasses: c.numClasses,
          ...(shaping === "extra" && { trainingForm: form }),
        },
      })),
  );
}

/** Of networks with one deploy form, the one that all of them become. */
const withoutAlike = <T>(fitting: readonly Fitting<T>[]): readonly Fitting<T>[] =>
  fitting.filter(({ name, form }) => {
    const { deploysAs } = familyOf(name).variants[name];
    return form !== "deploy" || !fitting.some((other) => other.name === deploysAs);
  });

function mustBeOne(fitting: readonly Fitting<unknown>[], where: string): void {
  must(
    fitting.length < 2,
    "detect/ambiguous",
    () => `${where}: fits ${listed(fitting.map((c) => c.name))} alike. Name the architecture (-a on the command line).`,
    "usage",
  );
}

/** A part of a file is only taken when that was asked for. */
function mustBeWhole(fitting: readonly Fitting<unknown>[], where: string): void {
  must(
    !fitting.length,
    "detect/prefix",
    () => {
      const prefixes = [...new Set(fitting.map(({ state }) => state.taken.prefix ?? ""))];
      const [{ name, state }] = fitting;
      const others = state.taken.leftOut ?? [];
      return prefixes.length > 1
        ? `${where}: ${severalPrefixes(prefixes)}`
        : `${where}: the keys under "${prefixes[0]}" are those of ${name}; ${others.length} others are not: ${listed(others, 3)}. To leave those out say --prefix ${prefixes[0]} on the command line.`;
    },
    "usage",
  );
}

/** A network in the form that a state dict belongs to, in evaluation mode, without values. */
export function createDetected(
  { name, form, numClasses, trainingForm }: DetectedModel,
  options: ModelOptions = {},
): Net {
  return shaped(name, createModel(name, { ...options, numClasses }).eval(), trainingForm ?? form).eval();
}

/** `train`, `deploy`, or one of the family's further training forms. */
function shaped<M extends Module>(name: string, model: M, form: string): M {
  if (form === "train") return model;
  const merged = deployForm(model);
  return form === "deploy" ? merged : familyOf(name).trainingForms[form].make(merged);
}

interface Candidate {
  readonly name: string;
  readonly form: string;
  readonly numClasses: number | undefined;
  readonly shapes: ReadonlyMap<string, Shape>;
}

const built = new Map<string, Module | undefined>();

/**
 * A network without values; nothing where it has no such form. Kept: it takes long to build and merge, and every file
 * is compared with all that are plausible.
 */
function build(name: string, form: string, options: ModelOptions): Module | undefined {
  const asked = JSON.stringify([name, form, options]);
  if (!built.has(asked)) built.set(asked, buildNow(name, form, options));
  return built.get(asked);
}

function buildNow(name: string, form: string, options: ModelOptions): Module | undefined {
  const model = createModel(name, options);
  if (form === "train" || form === "deploy") return shaped(name, model, form);
  try {
    return shaped(name, model, form);
  } catch (error) {
    // Not every network of a family has what a further form is made of.
    if (error instanceof RepmlpError) return undefined;
    throw error;
  }
}

const shapesOf = (name: string, form: string, options: ModelOptions): Map<string, Shape> =>
  new Map([...(build(name, form, options)?.state() ?? [])].map(([key, p]) => [key, p.shape]));

const isCounter = (key: string): boolean => key.endsWith("num_batches_tracked");

/** Whether the keys are those of an architecture, whatever the shapes. Ends at the first key that is not. */
function hasKeysOf(entries: StateShapes, name: string, form: string, options: ModelOptions): boolean {
  const model = build(name, form, options);
  if (!model) return false;
  const own = new Set<string>();
  for (const [key] of model.state()) {
    if (!entries.has(key) && !isCounter(key)) return false;
    own.add(key);
  }
  return [...entries.keys()].every((key) => own.has(key) || isCounter(key));
}

/** One form of an architecture, with the number of classes that the head in `entries` has. */
function candidate(name: string, form: string, entries: StateShapes, options: ModelOptions): Candidate {
  const numClasses = options.numClasses ?? classesOf(name, form, entries, options);
  return { name, form, numClasses, shapes: shapesOf(name, form, { ...options, numClasses }) };
}

/** The head of an architecture is what changes with the number of classes: keys, and the axis of the classes. */
function* headOf(name: string, form: string, options: ModelOptions): Iterable<readonly [key: string, axis: number]> {
  const [a, b] = [11, 13].map((numClasses) => shapesOf(name, form, { ...options, numClasses }));
  for (const [key, shape] of a) {
    const other = b.get(key);
    const axis = shape.findIndex((d, i) => d === 11 && other?.[i] === 13);
    if (axis >= 0) yield [key, axis];
  }
}

/** Keys of an architecture's head in training form: what depends on the number of classes. */
export const headKeys = (name: string, options: ModelOptions = {}): string[] =>
  [...headOf(name, "train", options)].map(([key]) => key);

function classesOf(name: string, form: string, entries: StateShapes, options: ModelOptions): number | undefined {
  for (const [key, axis] of headOf(name, form, options)) {
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

function nearestError<T extends { readonly shape: Shape }>(
  readings: readonly Reading<T>[],
  arch: string | undefined,
  where: string,
  options: ModelOptions,
): RepmlpError {
  const differences = readings.flatMap(({ family, names, state }) => {
    const form = [...state.entries.keys()].some((key) => key.endsWith("running_var")) ? "train" : "deploy";
    return names.map((name) => ({
      ...compare(candidate(name, form, state.entries, options), state.entries),
      ...{ family, state },
    }));
  });
  const nearest = differences.reduce((a, b) => (b.count < a.count ? b : a));
  const { name } = nearest.candidate;
  const bare = withoutStatistics(name, nearest.state.entries, options);
  if (bare) return new RepmlpError("detect/statistics", `${where}: ${bare}`, "model");
  const half = halfMerged(name, nearest.state.entries, options);
  if (half) return new RepmlpError("detect/half-merged", `${where}: ${half}`, "model");
  return new RepmlpError("detect/unknown", unknownMessage(nearest, nearest.state, arch, where), "model");
}

/** What to say of a file whose batch norms always took the statistics of their batch, all else being as it should be. */
function withoutStatistics(name: string, entries: StateShapes, options: ModelOptions): string | undefined {
  const { missing, count } = compare(candidate(name, "train", entries, options), entries);
  if (!count || count > missing.length || missing.some((key) => !/(^|\.)running_(mean|var)$/.test(key)))
    return undefined;
  return (
    `holds the training form of ${name}, but its batch norms have no running statistics (${missing[0]} and ` +
    `${missing.length - 1} more): trained without them they take those of each batch, to which no merged form is equal.`
  );
}

/** What to say of a file in which some blocks are merged and others are not, and all else is as it should be. */
function halfMerged(name: string, entries: StateShapes, options: ModelOptions): string | undefined {
  const train = build(name, "train", options)!;
  const changed: string[] = [];
  const merged = deployForm(train, (block) => block.merged && changed.push(block.path));
  // What the merged form leaves out cannot be there in its merged form.
  const keys = [...merged.state()].map(([key]) => key);
  const blocks = changed.filter((path) => keys.some((key) => key.startsWith(`${path}.`)));
  const has = (form: Module, path: string): boolean =>
    [...form.state()].every(([key]) => !key.startsWith(`${path}.`) || isCounter(key) || entries.has(key));
  const [done, left] = [merged, train].map((form) => blocks.filter((path) => has(form, path)));
  const isSplit = blocks.every((path) => done.includes(path) || left.includes(path));
  if (!done.length || !left.length || !isSplit) return undefined;
  const [few, state] = done.length <= left.length ? [done, "merged"] : [left, "not merged"];
  return (
    `holds ${name} half merged: of ${blocks.length} blocks ${done.length} are merged. ` +
    `${few.length === 1 ? "Block" : "Blocks"} ${listed(few, 3)} ${few.length === 1 ? "is" : "are"} ${state}. ` +
    "Give the training checkpoint, of which all are merged, or none."
  );
}

const words: Readonly<Record<string, string>> = { train: "training form", deploy: "deploy form" };

function unknownMessage(
  { candidate, missing, unexpected, reshaped }: Difference,
  { taken: { prefix } }: NamedState<unknown>,
  arch: string | undefined,
  where: string,
): string {
  const part = (title: string, names: readonly string[]): string =>
    names.length ? ` ${title} ${names.length}: ${listed(names, 3)}.` : "";
  const under = prefix === undefined ? "" : ` under "${prefix}"`;
  const head = arch
    ? `${where}: does not hold ${candidate.name}${under}. Compared with its ${words[candidate.form]}:`
    : `${where}: no known architecture has these keys and shapes${under}. Nearest is the ${words[candidate.form]} of ${candidate.name}:`;
  const advice = arch
    ? "Give another architecture, or its options (--model-option on the command line)."
    : "Name the architecture (-a) if it is one of those, with its options (--image-size, --model-option).";
  return `${head}${part("missing", missing)}${part("unexpected", unexpected)}${part("other shapes", reshaped)} ${advice}`;
}

function strangeMessage(where: string, keys: readonly string[]): string {
  const of = families.map(({ name, namings }) => `${name} (${namings[0].signature[0][0]})`);
  return (
    `${where}: holds no network that is known here: its keys are ${listed(keys, 3) || "none"}. ` +
    `Looked for a key of ${listed(of, 9)}. \`repmlp models\` lists what there is; of other networks \`repmlp convert --blocks\` merges the blocks that it knows, and they can be used as ONNX models.`
  );
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
