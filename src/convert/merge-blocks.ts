import { asWeights } from "../checkpoint/index.ts";
import { fmt, listed, must, RepmlpError } from "../errors.ts";
import { BatchNorm, cloneWith, type Module, mapModules, Parameter, withParameters } from "../nn/index.ts";
import {
  type ConversionEntry,
  HostAlgebra,
  type KernelAlgebra,
  type LinearMap,
  type NamedTensors,
  type Norm,
  namedMap,
  normAfter,
} from "../reparam/index.ts";
import { type DType, derived, isFloating, sameShape, type TensorSource } from "../tensor/index.ts";
import { fitsPattern } from "../text.ts";
import { type BlockModule, blockKinds } from "./block-kinds.ts";
import { type FoundBlock, findBlocks, groupOf, pathOf } from "./find-blocks.ts";
import { findPairs, type NormPair } from "./pairs.ts";

/** A value for blocks whose path fits a pattern (`*` stands for anything); of several that fit the last one counts. */
export interface Answer<T> {
  readonly pattern: string;
  readonly value: T;
}

export interface MergeBlocksOptions {
  /** eps of batch norms, which no checkpoint holds. Asked for where there is one. */
  readonly eps?: readonly Answer<number>[];
  /** Whether a block adds its input, where that branch has no parameters. */
  readonly identity?: readonly Answer<boolean>[];
  /** Height and width of RepMLP's partitions. */
  readonly partition?: readonly Answer<readonly [height: number, width: number]>[];
  /** Name of a kind, or `none`, where keys may be those of several. */
  readonly kind?: readonly Answer<string>[];
  /** Whether a layer is a transposed convolution, where shapes do not tell. */
  readonly transposed?: readonly Answer<boolean>[];
  /** Patterns of blocks that stay as they are. */
  readonly skip?: readonly string[];
  /** Leaves convolutions with nothing but a batch norm after them as they are. Default false. */
  readonly keepPairs?: boolean;
  /** Whether the order of the keys is that of the layers, as in a `.pth`. Default: unless it is alphabetical. */
  readonly ordered?: boolean;
  /** Element type of the result. Default: that of the tensors. */
  readonly dtype?: "float32" | "float64" | "float16" | "bfloat16" | undefined;
  /** What to call the state dict in errors. Default `checkpoint`. */
  readonly where?: string;
}

export interface MergedBlocks {
  /** The state dict after the merge, in the order of the one before. Values are computed when they are read. */
  readonly entries: ReadonlyMap<string, TensorSource>;
  /** What became of each block, in the order of the file. */
  readonly blocks: readonly ConversionEntry[];
  /** What should be looked at, as sentences. */
  readonly warnings: readonly string[];
}

/** A group of keys, and what takes their place. */
interface Group {
  readonly path: string;
  readonly kind: string;
  readonly note: string;
  /** Keys of the file that it takes in. */
  readonly keys: readonly string[];
  readonly results: ReadonlyMap<string, TensorSource>;
}

/**
 * Merges every block of a known kind in the state dict of a network that nobody knows, and convolutions with a batch norm
 * after them; everything else stays. Kinds are told from keys and shapes ({@link blockKinds}). What these do not tell and a
 * merge depends on is asked for: eps, branches without parameters, and which of two kinds it is.
 *
 * Computed in float64 and rounded once, when it is read: nothing is held.
 *
 * @throws `blocks/ask` naming what has to be said; `blocks/broken` for blocks of which a part is missing, whose branches do
 *   not fit, whose weights are shared or that are merged in part; `blocks/half-merged`; `blocks/none` where there is
 *   nothing to merge
 */
export async function mergeBlocks(
  given: ReadonlyMap<string, TensorSource>,
  options: MergeBlocksOptions = {},
): Promise<MergedBlocks> {
  const { where = "checkpoint", skip = [], keepPairs = false, dtype } = options;
  mustBeKinds(options.kind ?? []);
  const entries = new Map([...given].map(([key, source]) => [key, source]));
  const keys = [...entries.keys()];
  const { ordered = keys.some((key, i) => i > 0 && key < keys[i - 1]) } = options;
  const isSkipped = (path: string): boolean => skip.some((pattern) => fitsPattern(path, pattern));
  const questions = new Questions();
  const problems: string[] = [];
  const kept: ConversionEntry[] = [];
  const groups: Group[] = [];
  const taken = new Set<string>();

  const { blocks, broken } = findBlocks(entries);
  for (const found of broken) {
    const path = pathOf(found);
    for (const key of found.keys.values()) taken.add(key);
    if (isSkipped(path)) kept.push({ path, block: found.kind.name, merged: false, note: SKIPPED });
    else problems.push(`${path} (${found.kind.name}): ${whatIsMissing(found)}`);
  }
  const merging = blocks.flatMap((found): FoundBlock[] => {
    const path = pathOf(found);
    if (isSkipped(path)) {
      for (const key of found.keys.values()) taken.add(key);
      kept.push({ path, block: found.kind.name, merged: false, note: SKIPPED });
      return [];
    }
    const answer = answerFor(options.kind, path);
    if (answer === "none") return [];
    const kinds = [found, ...found.rivals];
    const chosen = kinds.find(({ kind }) => kind.name === answer);
    if (chosen) return [chosen];
    const doubt = found.kind.doubt?.(groupOf(entries, found));
    if (doubt === undefined && kinds.length === 1) return [found];
    const names = kinds.map(({ kind }) => kind.name);
    const why = doubt ?? `${names.join(" and ")} have the same keys`;
    questions.add("kind", `which kind of block it is: ${why}`, [...names, "none"].join(", "), path);
    for (const key of found.keys.values()) taken.add(key);
    return [];
  });
  for (const found of merging) {
    for (const key of found.keys.values()) taken.add(key);
    const made = groupFrom(found, entries, options, questions);
    if (typeof made === "string") problems.push(`${pathOf(found)} (${found.kind.name}): ${made}`);
    else if (made) groups.push(made);
  }
  problems.push(...mergedInPart(merging, keys));
  const half = halfMerged(merging, keys, isSkipped);

  const told = (layer: string): boolean | undefined => answerFor(options.transposed, layer);
  const found = findPairs(entries, taken, ordered, told);
  for (const { norm, reason } of found.lone)
    kept.push({ path: norm, block: "batch norm", merged: false, note: reason });
  if (!keepPairs)
    for (const { layer, why } of found.questions)
      if (!isSkipped(layer)) questions.add("transposed", why, "yes or no", layer);
  const pairs: NormPair[] = [];
  for (const pair of found.pairs) {
    const note = keepPairs ? "left out (--keep-pairs)" : isSkipped(pair.layer) ? SKIPPED : undefined;
    if (note) kept.push({ path: pair.layer, block: pairName(pair), merged: false, note });
    else pairs.push(pair);
  }
  const pairGroups = pairs.flatMap((pair) => pairGroup(pair, entries, options, questions) ?? []);

  must(
    !problems.length,
    "blocks/broken",
    () => `${where}: ${listed(problems, 4)}. Give a whole training checkpoint, or leave blocks out with --skip <path>.`,
    "model",
  );
  must(half === undefined, "blocks/half-merged", () => `${where}: ${half}`, "model");
  questions.mustBeAnswered(where);

  const shared = await sharedKeys(entries);
  const sharing = [...groups, ...pairGroups].flatMap((group) => {
    const other = sharedWithOther(group, [...groups, ...pairGroups], shared);
    return other ? [{ group, other }] : [];
  });
  const badBlocks = sharing.filter(({ group }) => groups.includes(group));
  must(
    !badBlocks.length,
    "blocks/broken",
    () =>
      `${where}: ${listed(
        badBlocks.map(({ group, other }) => `${group.path} (${group.kind}): shares ${other[0]} with ${other[1]}`),
        4,
      )}: merged, the two would no longer be the same. Leave blocks out with --skip <path>.`,
    "model",
  );
  for (const { group, other } of sharing)
    kept.push({
      ...{ path: group.path, block: group.kind, merged: false },
      note: `its weights are shared: ${other[0]} is ${other[1]}, too`,
    });
  const final = [...groups, ...pairGroups.filter((group) => !sharing.some((s) => s.group === group))];
  must(
    final.length,
    "blocks/none",
    () =>
      `${where}: holds no block that is known by its keys${kept.length ? ` and would be merged: ${kept[0].path}: ${kept[0].note}` : `: they are ${listed(keys, 3)}`}. It may be merged already.`,
    "model",
  );
  const cast = (source: TensorSource): TensorSource =>
    dtype && isFloating(source.dtype) ? casting(source, dtype) : source;
  return {
    entries: new Map([...replaced(entries, final, where)].map(([key, source]) => [key, cast(source)])),
    blocks: inOrder(
      [...kept, ...final.map(({ path, kind, note }) => ({ path, block: kind, merged: true, note }))],
      keys,
    ),
    warnings: await untouchedNorms(final, entries),
  };
}

/** In the order in which the keys of their paths begin. */
function inOrder(blocks: readonly ConversionEntry[], keys: readonly string[]): ConversionEntry[] {
  const places = new Map<string, number>();
  for (const [i, key] of keys.entries())
    for (let at = key.indexOf("."); at >= 0; at = key.indexOf(".", at + 1))
      if (!places.has(key.slice(0, at))) places.set(key.slice(0, at), i);
  return [...blocks].sort((a, b) => (places.get(a.path) ?? 0) - (places.get(b.path) ?? 0));
}

const SKIPPED = "left out (--skip)";

const answerFor = <T>(answers: readonly Answer<T>[] | undefined, path: string): T | undefined =>
  answers?.findLast(({ pattern }) => fitsPattern(path, pattern))?.value;

function mustBeKinds(answers: readonly Answer<string>[]): void {
  const names = blockKinds.map(({ name }) => name);
  for (const { value } of answers)
    must(
      value === "none" || names.includes(value),
      "blocks/kind",
      () => `blocks: there is no kind "${value}"; there are ${listed(names, names.length)}, and none.`,
      "usage",
    );
}

/** What has to be asked, by option, with the blocks that it is about. */
class Questions {
  private readonly asked = new Map<string, { why: string; values: string; paths: string[] }>();

  add(option: string, why: string, values: string, path: string): void {
    const known = this.asked.get(option) ?? { why, values, paths: [] };
    known.paths.push(path);
    this.asked.set(option, known);
  }

  mustBeAnswered(where: string): void {
    if (!this.asked.size) return;
    const parts = [...this.asked].map(
      ([option, { why, values, paths }]) => `${why} (${listed(paths, 2)}). Say --${option} ${values}.`,
    );
    const about = ' An answer may be for some blocks only: --eps "head.*=1e-3".';
    throw new RepmlpError("blocks/ask", `${where}: the keys do not tell ${parts.join(" Nor ")}${about}`, "usage");
  }
}

const EPS = "the eps of batch norms; PyTorch's default is 1e-5, that of YOLO's and TensorFlow's networks 1e-3";
const VALUES: Readonly<Record<string, string>> = { identity: "yes or no", partition: "<height>x<width>" };

function epsFor(path: string, { eps }: MergeBlocksOptions, questions: Questions): number {
  const value = answerFor(eps, path);
  if (value === undefined) questions.add("eps", EPS, "<x>", path);
  return value ?? 1;
}

/** A block with the file's tensors behind it, merged; or why that cannot be. */
function groupFrom(
  found: FoundBlock,
  entries: ReadonlyMap<string, TensorSource>,
  options: MergeBlocksOptions,
  questions: Questions,
): Group | string | undefined {
  const { kind, prefix, keys, naming } = found;
  const path = pathOf(found);
  try {
    const answers = {
      identity: answerFor(options.identity, path),
      partition: answerFor(options.partition, path),
    };
    const hasNorm = [...keys.keys()].some((key) => key.endsWith("running_var"));
    const eps = hasNorm ? epsFor(path, options, questions) : 1;
    const built = kind.build(groupOf(entries, found), answers);
    if ("option" in built) {
      questions.add(built.option, built.why, VALUES[built.option], path);
      return undefined;
    }
    const members = new Map([...keys].map(([own, key]) => [own, entries.get(key)!]));
    const why = misfit(built, members, keys) ?? strayOf(found, entries);
    if (why) return why;
    const bound = bind(built, weightsOf(options, keys, members), eps);
    const merge = bound.merge();
    if ("kept" in merge) return merge.kept;
    const theirs = (own: string): string => prefix + renamed(own, naming);
    // Counters are nothing to compute with: those of norms that stay come from the file, if it has them.
    const results = new Map(
      [...merge.merged.state()].flatMap(([own, p]) => {
        const source = isCounter(own) ? members.get(own) : p.source();
        return source ? [[theirs(own), source] as const] : [];
      }),
    );
    return { path, kind: kind.name, note: merge.note, keys: [...keys.values()], results };
  } catch (error) {
    // A block says itself which options it cannot be built with; here they come from the shapes of the keys.
    if (error instanceof RepmlpError && /^(merge|conv2d|batchNorm|parameter|[a-z-]+)\//.test(error.code))
      return `its shapes do not fit: ${error.message}`;
    throw error;
  }
}

/** A key of the merged form under the names of the file. */
function renamed(own: string, naming: Readonly<Record<string, string>>): string {
  const layer = Object.keys(naming).find((name) => own.startsWith(`${name}.`));
  return layer === undefined ? own : naming[layer] + own.slice(layer.length);
}

/** Values are looked at when they are read; with another type wanted, float64 lies between, and only the last one rounds. */
function weightsOf(
  { where = "checkpoint", dtype }: MergeBlocksOptions,
  keys: ReadonlyMap<string, string>,
  members: ReadonlyMap<string, TensorSource>,
): Map<string, TensorSource> {
  const sound = asWeights(where, new Map([...members].map(([own, source]) => [keys.get(own) ?? own, source])));
  return new Map(
    [...members.keys()].map((own) => {
      const source = sound.get(keys.get(own) ?? own)!;
      return [own, dtype && isFloating(source.dtype) ? casting(source, "float64") : source];
    }),
  );
}

/** A tensor in another type when it is read. */
const casting = (source: TensorSource, dtype: DType): TensorSource =>
  dtype === source.dtype ? source : derived(dtype, source.shape, [source], (t) => t.cast(dtype));

const isCounter = (key: string): boolean => key.endsWith("num_batches_tracked");

/** Why members do not make up a block. */
function misfit(
  block: Module,
  members: ReadonlyMap<string, TensorSource>,
  keys: ReadonlyMap<string, string>,
): string | undefined {
  const own = new Map(block.state());
  for (const [key, { shape }] of members) {
    const place = own.get(key);
    if (!place) return `${keys.get(key)} has no place beside the others`;
    if (!sameShape(place.shape, shape) && !isCounter(key))
      return `${keys.get(key)} is ${fmt(shape)}, beside the others it would be ${fmt(place.shape)}: channels or strides of the branches differ`;
  }
  const absent = [...own.keys()].find((key) => !members.has(key) && !isCounter(key));
  return absent && `${absent} is missing`;
}

/** What a batch norm has in the file beyond what the block takes of it. */
function strayOf({ keys }: FoundBlock, entries: ReadonlyMap<string, TensorSource>): string | undefined {
  const own = new Set(keys.values());
  const stray = [...own]
    .filter((key) => key.endsWith(".running_var"))
    .flatMap((key) => ["weight", "bias"].map((name) => key.replace(/running_var$/, name)))
    .find((key) => entries.has(key) && !own.has(key));
  return stray && `${stray} has no place beside the others`;
}

/** The block in evaluation mode with values behind its parameters. */
function bind(block: BlockModule, members: ReadonlyMap<string, TensorSource>, eps: number): BlockModule {
  const parameters = new Map([...members].map(([key, source]) => [key, Parameter.from(source)]));
  const bound = withParameters(block, new Map([...parameters].filter(([key]) => !isCounter(key))));
  return mapModules(bound, {
    module: (m) => (m instanceof BatchNorm ? cloneWith(m, { eps } as Partial<BatchNorm>) : undefined),
  }).eval();
}

const pairName = ({ transposed }: NormPair): string =>
  transposed ? "transposed convolution + batch norm" : "layer + batch norm";

function pairGroup(
  pair: NormPair,
  entries: ReadonlyMap<string, TensorSource>,
  options: MergeBlocksOptions,
  questions: Questions,
): Group | undefined {
  const { layer, norm, rule, transposed } = pair;
  const eps = epsFor(layer, options, questions);
  const prefix = layer && `${layer}.`;
  const keys = [...entries.keys()].filter(
    (key) => key === `${prefix}weight` || key === `${prefix}bias` || isOfNorm(key, norm),
  );
  const own = new Map(keys.map((key) => [key, key]));
  const sources = weightsOf(options, own, new Map(keys.map((key) => [key, entries.get(key)!])));
  const at = (key: string): Parameter | undefined => (sources.has(key) ? Parameter.from(sources.get(key)!) : undefined);
  const affine: Norm = {
    ...{ weight: at(`${norm}.weight`), bias: at(`${norm}.bias`) },
    ...{ runningMean: at(`${norm}.running_mean`)!, runningVar: at(`${norm}.running_var`)!, eps },
  };
  const k = new HostAlgebra();
  const [weight, bias] = [k.of(at(`${prefix}weight`)!), at(`${prefix}bias`)];
  const map = { weight, bias: bias && k.of(bias) };
  const merged = transposed ? transposedThenNorm(k, map, affine) : namedMap("", normAfter(k, map, affine));
  return {
    ...{ path: layer, kind: pairName(pair), keys },
    note: `${norm} into it (${rule})`,
    results: new Map(Object.entries(merged).map(([name, t]) => [`${prefix}${name.replace(/^\./, "")}`, t.source()])),
  };
}

const isOfNorm = (key: string, norm: string): boolean =>
  ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"].some((name) => key === `${norm}.${name}`);

/** A transposed convolution, whose outputs are the second axis of its weight, with a batch norm after it. */
function transposedThenNorm<T>(k: KernelAlgebra<T>, { weight, bias }: LinearMap<T>, norm: Norm): NamedTensors<T> {
  const { scale, shift } = k.normAffine(norm);
  const groups = k.shapeOf(scale)[0] / k.shapeOf(weight)[1];
  return {
    weight: k.scaleInputs(weight, scale, groups),
    bias: bias === undefined ? shift : k.add(shift, k.scaleOutputs(bias, scale)),
  };
}

/** The state dict with each group's results in the place of its first key. */
function* replaced(
  entries: ReadonlyMap<string, TensorSource>,
  groups: readonly Group[],
  where: string,
): Iterable<readonly [string, TensorSource]> {
  const byKey = new Map(groups.flatMap((group) => group.keys.map((key) => [key, group])));
  for (const group of groups)
    for (const key of group.results.keys())
      must(
        !entries.has(key) || byKey.get(key) === group,
        "blocks/broken",
        () => `${where}: ${group.path} (${group.kind}): ${key} would be written twice. Leave it out with --skip.`,
        "model",
      );
  const done = new Set<Group>();
  for (const [key, source] of entries) {
    const group = byKey.get(key);
    if (!group) yield [key, source];
    else if (!done.has(group)) {
      done.add(group);
      yield* group.results;
    }
  }
}

/** The layer that is left after a merge, by the names of the file; where it is the block itself, nothing. */
const mergedLayer = ({ kind, naming }: FoundBlock): string => naming[kind.merged] ?? kind.merged;

/** Blocks in which branches stand beside what they are merged into. */
function mergedInPart(blocks: readonly FoundBlock[], keys: readonly string[]): string[] {
  const all = new Set(keys);
  return blocks.flatMap((found) => {
    const key = `${found.prefix}${mergedLayer(found)}.weight`;
    const own = [...found.keys.values()].includes(key);
    return mergedLayer(found) && !own && all.has(key)
      ? [`${pathOf(found)} (${found.kind.name}): holds branches and ${key}, too: it is merged in part`]
      : [];
  });
}

/** What to say of a file in which other blocks of these kinds are merged already. */
function halfMerged(
  blocks: readonly FoundBlock[],
  keys: readonly string[],
  isSkipped: (path: string) => boolean,
): string | undefined {
  for (const found of blocks) {
    const layer = mergedLayer(found);
    // A name that is also a branch's says nothing.
    if (!found.kind.telling || !layer) continue;
    const same = blocks.filter((other) => mergedLayer(other) === layer);
    const done = keys
      .filter((key) => key.endsWith(`.${layer}.weight`))
      .map((key) => key.slice(0, -`.${layer}.weight`.length))
      .filter((path) => !isSkipped(path));
    if (!done.length) continue;
    const [few, state] = done.length <= same.length ? [done, "merged"] : [same.map(pathOf), "not merged"];
    return (
      `half merged: of ${done.length + same.length} blocks with ${layer} ${done.length} are merged already. ` +
      `${listed(few, 3)} ${few.length === 1 ? "is" : "are"} ${state}. ` +
      "Give the training checkpoint, of which none is; --skip leaves blocks out."
    );
  }
  return undefined;
}

/** Keys by the place of their values, where several have one. */
async function sharedKeys(entries: ReadonlyMap<string, TensorSource>): Promise<Map<string, readonly string[]>> {
  const places = new Map<unknown, string[]>();
  for (const [key, source] of entries) {
    const found = await source.place?.();
    const place = found ? `${found.offset} ${found.path}` : source;
    places.set(place, [...(places.get(place) ?? []), key]);
  }
  return new Map(
    [...places.values()].filter((keys) => keys.length > 1).flatMap((keys) => keys.map((key) => [key, keys])),
  );
}

/** A key of a group whose values are also another's, unless that one's block is the same altogether. */
function sharedWithOther(
  group: Group,
  groups: readonly Group[],
  shared: ReadonlyMap<string, readonly string[]>,
): readonly [key: string, other: string] | undefined {
  for (const key of group.keys)
    for (const other of shared.get(key) ?? []) {
      if (other === key || group.keys.includes(other)) continue;
      const twin = groups.find((g) => g.keys.includes(other));
      const same = twin?.keys.length === group.keys.length && group.keys.every((own) => isSameIn(own, twin, shared));
      if (!same) return [key, other];
    }
  return undefined;
}

const isSameIn = (key: string, twin: Group, shared: ReadonlyMap<string, readonly string[]>): boolean =>
  isCounter(key) || (shared.get(key) ?? []).some((other) => twin.keys.includes(other));

/** A norm without running statistics takes those of each batch. */
const whatIsMissing = ({ missing }: { readonly missing: readonly string[] }): string =>
  missing.every((key) => /(^|\.)running_(mean|var)$/.test(key))
    ? `${missing[0]} is missing: norms in training mode have no equal merged form`
    : `${listed(missing, 2)} is missing`;

/** Sentences about batch norms that no batch has gone through: their statistics are those of the start. */
async function untouchedNorms(groups: readonly Group[], entries: ReadonlyMap<string, TensorSource>): Promise<string[]> {
  const untouched: string[] = [];
  for (const key of groups.flatMap((group) => group.keys).filter((k) => k.endsWith("running_var"))) {
    const norm = key.slice(0, -".running_var".length);
    const counter = await entries.get(`${norm}.num_batches_tracked`)?.read();
    const [mean, variance] = [await entries.get(`${norm}.running_mean`)!.read(), await entries.get(key)!.read()];
    const initial = mean.toFloat64().every((v) => v === 0) && variance.toFloat64().every((v) => v === 1);
    if (initial || (counter && counter.toFloat64()[0] === 0)) untouched.push(norm);
  }
  return untouched.length
    ? [
        `${untouched.length} batch norms have the statistics of the start (${listed(untouched, 2)}): no batch has gone ` +
          "through them in training mode. Merged, they are taken as they are; a network that runs in training mode has no equal merged form",
      ]
    : [];
}
