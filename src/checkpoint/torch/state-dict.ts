import { listed, RepmlpError } from "../../errors.ts";
import type { TensorSource } from "../../tensor/index.ts";
import { demand, refuse } from "../file-error.ts";
import { kindOf, Opaque, type PickleValue } from "../pickle/values.ts";
import { shortened } from "../text.ts";
import { bindTensor, type TorchArchive, whyUnreadable } from "./archive.ts";
import { type OtherValue, otherValues } from "./other-values.ts";
import { TensorRef, UnreadableTensor } from "./values.ts";

/** Keys under which training scripts put the state dict, the most wanted first. */
const WRAPPERS = ["state_dict", "model_state_dict", "model", "net", "network", "model_ema", "state_dict_ema", "ema"];

export interface StateDictOptions {
  /** Key of the state dict inside the file, e.g. `model_ema`. By default the usual ones are tried. */
  readonly wrapper?: string;
  /** Whether a leading `module.` is taken off the keys. Default `true`. */
  readonly stripModulePrefix?: boolean;
}

export interface StateDict {
  readonly entries: Map<string, TensorSource>;
  readonly wrapper: string | undefined;
  readonly strippedPrefix: boolean;
  readonly others: Map<string, OtherValue>;
}

type Mapping = ReadonlyMap<PickleValue, PickleValue>;
type PickledTensor = TensorRef | UnreadableTensor;

/** Finds the state dict in what a `.pth` holds and makes its tensors readable; the rest goes to `others`. */
export function stateDictOf(archive: TorchArchive, options: StateDictOptions): StateDict {
  const { root, source } = archive;
  if (isTensor(root)) return finish(archive, undefined, new Map([["", root]]), new Map(), options);
  refuseModule(source.name, root);
  const top = mappingOf(root);
  demand(
    top !== undefined,
    "no-state-dict",
    () => `${source.name}: holds ${kindOf(root)}, not a state dict. Save model.state_dict() instead.`,
  );
  const wrapper = chooseWrapper(source.name, top, options.wrapper);
  if (wrapper === undefined) return finish(archive, undefined, top, new Map(), options);
  const outside = new Map(top);
  outside.delete(wrapper);
  return finish(archive, String(wrapper), mappingOf(top.get(wrapper)) as Mapping, outside, options);
}

const isTensor = (value: PickleValue | undefined): value is PickledTensor =>
  value instanceof TensorRef || value instanceof UnreadableTensor;

/** Dicts, objects of subclasses of dict, and lists (by index). */
function mappingOf(value: PickleValue | undefined): Mapping | undefined {
  if (value instanceof Map) return value;
  if (value instanceof Opaque && value.items.size > 0) return value.items;
  return Array.isArray(value) ? new Map(value.map((item, i) => [String(i), item])) : undefined;
}

const holdsTensors = (value: PickleValue | undefined): boolean =>
  [...(mappingOf(value)?.values() ?? [])].some(isTensor);

function chooseWrapper(file: string, top: Mapping, wanted: string | undefined): PickleValue | undefined {
  if (wanted !== undefined) {
    refuseModule(file, top.get(wanted));
    demand(
      holdsTensors(top.get(wanted)),
      "no-state-dict",
      () => `${file}: holds no state dict under "${wanted}"; its keys are ${keysOf(top)}. Name another wrapper.`,
    );
    return wanted;
  }
  const known = WRAPPERS.find((key) => holdsTensors(top.get(key)));
  if (known !== undefined) return known;
  if (top.size === 0 || [...top.values()].some(isTensor)) return undefined;
  for (const key of WRAPPERS) refuseModule(file, top.get(key));
  const candidates = [...top.keys()].filter((key) => holdsTensors(top.get(key)));
  if (candidates.length === 1) return candidates[0];
  const empty = WRAPPERS.find((key) => mappingOf(top.get(key))?.size === 0);
  if (candidates.length === 0 && empty !== undefined) return empty;
  return refuse(
    "no-state-dict",
    candidates.length === 0
      ? `${file}: holds no state dict; its keys are ${keysOf(top)}. Save model.state_dict().`
      : `${file}: several of its keys hold tensors: ${listed(candidates.map(String))}. Name one of them as the wrapper.`,
  );
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
  wrapper: string | undefined,
  dict: Mapping,
  outside: Mapping,
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
    [wrapper === undefined ? [] : [wrapper], rest],
  ]);
  return { ...stripped(name, tensors, stripModulePrefix), wrapper, others };
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
        `${file}: holds both "${shortened(short)}" and "${prefix}${shortened(short)}". Read it with stripModulePrefix: false.`,
    );
    entries.set(short, tensor);
  }
  return { entries, strippedPrefix: true };
}
