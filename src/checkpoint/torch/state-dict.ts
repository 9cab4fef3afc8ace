import { listed, RepmlpError } from "../../errors.ts";
import type { TensorSource } from "../../tensor/index.ts";
import { demand, refuse } from "../file-error.ts";
import { kindOf, Opaque, OrderedDict, type PickleValue } from "../pickle/values.ts";
import { shortened } from "../text.ts";
import { bindTensor, type TorchArchive, whyUnreadable } from "./archive.ts";
import { type OtherValue, otherValues } from "./other-values.ts";
import { METADATA, TensorRef, UnreadableTensor } from "./values.ts";

/** Keys under which training scripts put the state dict, the most wanted first. */
const WRAPPERS = ["state_dict", "model_state_dict", "model", "net", "network", "model_ema", "state_dict_ema", "ema"];

/** Keys within those, where there is another dict between. */
const INNER = ["module", ...WRAPPERS];

/** What belongs to the training run and not to the network. */
const isOfTheRun = (key: PickleValue): boolean =>
  typeof key === "string" && /optim|sched|scaler|callback|loops/i.test(key);

export interface StateDictOptions {
  /**
   * Key of the state dict inside the file, e.g. `model_ema`; with a dot a key within that, e.g. `ema.module`; empty for the
   * file's own dict. By default the usual ones are tried.
   */
  readonly wrapper?: string | undefined;
  /** Whether a leading `module.` is taken off the keys. Default `true`. */
  readonly stripModulePrefix?: boolean;
}

export interface StateDict {
  readonly entries: Map<string, TensorSource>;
  readonly wrapper: string | undefined;
  readonly alternatives: readonly string[];
  readonly strippedPrefix: boolean;
  readonly metadata: Readonly<Record<string, string>>;
  readonly others: Map<string, OtherValue>;
}

type Mapping = ReadonlyMap<PickleValue, PickleValue>;
type PickledTensor = TensorRef | UnreadableTensor;

/** A dict that holds tensors, and the keys that lead there. */
interface Place {
  readonly path: readonly PickleValue[];
  readonly dict: Mapping;
}

/** Finds the state dict in what a `.pth` holds and makes its tensors readable; the rest goes to `others`. */
export function stateDictOf(archive: TorchArchive, options: StateDictOptions): StateDict {
  const { root, source } = archive;
  if (isTensor(root)) {
    const place = { path: [], dict: new Map([["", root]]) };
    return finish(archive, place, new Map(), [], options);
  }
  refuseModule(source.name, root);
  const top = mappingOf(root);
  demand(
    top !== undefined,
    "no-state-dict",
    () => `${source.name}: holds ${kindOf(root)}, not a state dict. Save model.state_dict() instead.`,
  );
  const places = placesIn(top);
  const place = choosePlace(source.name, top, places, options.wrapper);
  const others = places.filter((p) => p.dict !== place.dict && isAnother(p, place)).map(nameOf);
  return finish(archive, place, without(top, place.path), others, options);
}

const nameOf = ({ path }: Place): string => path.map(String).join(".");

const isTensor = (value: PickleValue | undefined): value is PickledTensor =>
  value instanceof TensorRef || value instanceof UnreadableTensor;

/** Dicts, objects of subclasses of dict, and lists (by index). */
function mappingOf(value: PickleValue | undefined): Mapping | undefined {
  if (value instanceof Map) return value;
  if (value instanceof Opaque && value.items.size > 0) return value.items;
  return Array.isArray(value) ? new Map(value.map((item, i) => [String(i), item])) : undefined;
}

const holdsTensors = (mapping: Mapping): boolean => [...mapping.values()].some(isTensor);

/** Every dict with tensors that a path of one or two keys leads to. */
function placesIn(top: Mapping): Place[] {
  // One thing may stand in many places; a small file could name it millions of times.
  const seen = new Set<PickleValue>();
  const below = ({ path, dict }: Place): Place[] =>
    [...dict].flatMap(([key, value]) => {
      if (isOfTheRun(key) || seen.has(value)) return [];
      const inner = mappingOf(value);
      if (!inner) return [];
      seen.add(value);
      return [{ path: [...path, key], dict: inner }];
    });
  const first = below({ path: [], dict: top });
  return [...first, ...first.flatMap(below)].filter(({ dict }) => holdsTensors(dict));
}

/** The state dict that is asked for, or the one that is most likely meant. */
function choosePlace(file: string, top: Mapping, places: readonly Place[], wanted: string | undefined): Place {
  const root: Place = { path: [], dict: top };
  if (wanted !== undefined) return wantedPlace(file, root, places, wanted);
  const at = (...path: string[]): Place | undefined =>
    places.find((p) => p.path.length === path.length && path.every((key, i) => p.path[i] === key));
  const known = WRAPPERS.map((key) => at(key)).find(Boolean);
  if (known) return known;
  if (top.size === 0 || holdsTensors(top)) return root;
  for (const key of WRAPPERS) refuseModule(file, top.get(key));
  const inner = WRAPPERS.flatMap((key) => INNER.map((second) => at(key, second))).find(Boolean);
  if (inner) return inner;
  const shallow = places.filter(({ path }) => path.length === 1);
  const candidates = shallow.length ? shallow : places;
  if (candidates.length === 1) return candidates[0];
  const empty = WRAPPERS.find((key) => mappingOf(top.get(key))?.size === 0);
  if (candidates.length === 0 && empty !== undefined) return { path: [empty], dict: new Map() };
  return refuse(
    "no-state-dict",
    candidates.length === 0
      ? `${file}: holds no state dict; its keys are ${keysOf(top)}. Save model.state_dict().`
      : `${file}: several of its keys hold tensors: ${listed(candidates.map(nameOf))}. Say which, on the command line with --key.`,
  );
}

function wantedPlace(file: string, root: Place, places: readonly Place[], wanted: string): Place {
  if (wanted === "" && holdsTensors(root.dict)) return root;
  refuseModule(file, root.dict.get(wanted));
  const found = places.find((p) => nameOf(p) === wanted);
  // What belongs to a run is found, too, by who asks for it.
  const dict = found?.dict ?? mappingOf(root.dict.get(wanted));
  if (dict !== undefined && holdsTensors(dict)) return found ?? { path: [wanted], dict };
  const there = places.length ? `there are ${listed(places.map(nameOf))}` : `its keys are ${keysOf(root.dict)}`;
  return refuse("no-state-dict", `${file}: holds no state dict under "${wanted}"; ${there}. Name another one.`);
}

/** Whether another dict is one of the same network: some keys are in both. */
function isAnother({ dict }: Place, chosen: Place): boolean {
  const names = (of: Mapping): string[] => [...of.keys()].map((key) => String(key).replace(/^module\./, ""));
  const own = new Set(names(chosen.dict));
  return names(dict).some((key) => own.has(key));
}

/** What is left when the state dict is taken out. */
function without(top: Mapping, [first, ...rest]: readonly PickleValue[]): Mapping {
  const outside = new Map(first === undefined ? [] : top);
  const inner = mappingOf(top.get(first));
  if (rest.length && inner) outside.set(first, without(inner, rest) as Map<PickleValue, PickleValue>);
  else outside.delete(first);
  return outside;
}

/** The string pairs that our own files carry beside the tensors. */
function metadataOf(dict: Mapping): Record<string, string> {
  const attributes = dict instanceof OrderedDict ? dict.attributes : null;
  const metadata = attributes instanceof Map ? attributes.get(METADATA) : undefined;
  if (!(metadata instanceof Map)) return {};
  const pairs = [...metadata].filter((pair): pair is [string, string] => pair.every((x) => typeof x === "string"));
  return Object.fromEntries(pairs);
}

const keysOf = (mapping: Mapping): string =>
  listed([...mapping.keys()].map((key) => (typeof key === "string" ? shortened(key, 60) : kindOf(key))));

/** A pickled module cannot be rebuilt without its Python class. */
function refuseModule(file: string, value: PickleValue | undefined): void {
  if (!(value instanceof Opaque)) return;
  if (!(value.state instanceof Map && value.state.has("_parameters"))) return;
  refuse(
    "whole-module",
    `${file}: holds a whole pickled module (class ${value.type}), not a state dict; reading it would need its Python ` +
      "code. In Python, load it and torch.save(model.state_dict(), path).",
  );
}

function finish(
  archive: TorchArchive,
  { path, dict }: Place,
  outside: Mapping,
  alternatives: readonly string[],
  { stripModulePrefix = true }: StateDictOptions,
): StateDict {
  const { name } = archive.source;
  const tensors = new Map<string, TensorSource>();
  const rest = new Map<PickleValue, PickleValue>();
  for (const [key, value] of dict) {
    if (!isTensor(value)) {
      rest.set(key, value);
      continue;
    }
    const text = typeof key === "number" ? String(key) : key;
    if (typeof text !== "string")
      return refuse("key", `${name}: a tensor has ${kindOf(key)} as its key, not a string.`);
    demand(!tensors.has(text), "key", () => `${name}: key "${shortened(text)}" stands for two tensors.`);
    tensors.set(text, bind(archive, text, value));
  }
  const others = otherValues(archive, [
    [[], outside],
    [path.map(String), rest],
  ]);
  const wrapper = path.length ? path.map(String).join(".") : undefined;
  return {
    ...stripped(name, tensors, stripModulePrefix),
    ...{ wrapper, alternatives, metadata: metadataOf(dict), others },
  };
}

function bind(archive: TorchArchive, key: string, value: PickledTensor): TensorSource {
  const reason = whyUnreadable(value);
  if (reason === undefined && value instanceof TensorRef) return bindTensor(archive, key, value);
  throw new RepmlpError(
    "checkpoint/dtype",
    `${archive.source.name}: tensor "${shortened(key)}" is ${reason}, which is not read. Save it as a dense tensor of a plain type.`,
    "file",
  );
}

/** Takes one leading `module.` (left by DataParallel) off every key that has it. */
export function stripped<T>(
  file: string,
  tensors: Map<string, T>,
  strip: boolean,
): { entries: Map<string, T>; strippedPrefix: boolean } {
  const prefix = "module.";
  if (!strip || ![...tensors.keys()].some((key) => key.startsWith(prefix)))
    return { entries: tensors, strippedPrefix: false };
  const entries = new Map<string, T>();
  for (const [key, tensor] of tensors) {
    const short = key.startsWith(prefix) ? key.slice(prefix.length) : key;
    demand(
      !entries.has(short),
      "key",
      () =>
        `${file}: holds both "${shortened(short)}" and "${prefix}${shortened(short)}". On the command line --prefix ${prefix} takes those; in the library read it with stripModulePrefix: false.`,
    );
    entries.set(short, tensor);
  }
  return { entries, strippedPrefix: true };
}
