import { fmt, listed, must } from "../errors.ts";
import { inLayer, type Value } from "../graph/index.ts";
import { isFloating, type Shape, sameShape, type TensorSource } from "../tensor/index.ts";
import { Buffer, Parameter } from "./parameter.ts";

/** How the entries of a list or record of layers are named in a state dict. */
type EntryName = (key: string) => string;

/** State-dict names of fields that do not follow the rule (camelCase field → snake_case name). */
export type StateNames = Readonly<Record<string, string | EntryName>>;

const snakeCase = (field: string): string => field.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);

type Member = Parameter | Module;
const isMember = (v: unknown): v is Member => v instanceof Parameter || v instanceof Module;
const isRecord = (v: unknown): v is Record<string, unknown> =>
  typeof v === "object" && v !== null && Object.getPrototypeOf(v) === Object.prototype;

/** Members in a field's value: itself, or those of lists and records, however deep. */
function* membersIn(value: unknown, name: string | EntryName, own: string): Iterable<readonly [string, Member]> {
  if (isMember(value)) yield [typeof name === "string" ? name : name(own), value];
  else if (Array.isArray(value) || isRecord(value))
    for (const [key, entry] of Object.entries(value))
      yield* membersIn(entry, typeof name === "string" ? `${name}.${key}` : name(key), key);
}

/** A network that maps one value to another. */
export type Net = Module & { forward(x: Value): Value };

/** Values of a network by name: `output`, and whatever else there is. The first axis is the batch. */
export interface Outputs {
  readonly output: Value;
  readonly [name: string]: Value;
}

/**
 * A network with further heads that are trained beside the main one (deep supervision, distillation). In training mode
 * `forward` gives the main output alone; in evaluation mode it gives whatever the heads amount to.
 */
export type MultiOutputNet = Net & {
  /** What training mode gives: `output`, and the outputs of the other heads under names of their own. */
  trainingOutputs(x: Value): Outputs;
  /** How much the loss of each other output counts beside the main one's, by name. */
  readonly outputWeights: Readonly<Record<string, number>>;
};

export const hasTrainingOutputs = (net: Net): net is MultiOutputNet => "trainingOutputs" in net;

/**
 * A network whose training form is another one at different times of a run, as when its batch norms or the ranges of its
 * activations are fixed from some step on.
 */
export type StagedNet = Net & {
  /** The present form; steps are compiled for each. */
  readonly stage: string;
  /** Says that so much of the run's steps is done, from 0 to 1. */
  atProgress(share: number): void;
};

export const isStaged = (net: Net): net is StagedNet => "atProgress" in net;

/** What a layer takes slices of. */
export interface SlicedValue {
  /** Its shape before. */
  readonly shape: Shape;
  /** Those that it takes, before. */
  readonly ranges: readonly { readonly axis: number; readonly start: number; readonly end: number }[];
  /** How many positions of an axis are left before one. */
  keptBefore(axis: number, position: number): number;
}

/** What a layer makes in a network whose parameters have other shapes now. */
export interface ResizedValue {
  /** Shapes of the value; of several the last. */
  readonly before: Shape;
  readonly after: Shape;
  readonly sliced?: SlicedValue | undefined;
}

/** By the path of the layer. */
export type ResizedShapes = ReadonlyMap<string, ResizedValue>;

export interface LoadOptions {
  /** Missing and unexpected keys are errors. Default true. */
  readonly strict?: boolean;
  /** Keys that may be missing, unexpected or of another shape (a new head). */
  readonly allow?: (key: string) => boolean;
}

export interface LoadReport {
  readonly missing: readonly string[];
  readonly unexpected: readonly string[];
  /** Keys whose shape differed and that `allow` let pass; their parameters keep their values. */
  readonly mismatched: readonly string[];
}

/**
 * A layer or network: fields hold parameters, buffers and other modules (also lists and records of modules), and a
 * `forward` method builds the graph. Its state dict has PyTorch's names: `bn.runningMean` is `bn.running_mean`.
 */
export abstract class Module {
  /** Names of fields that are not simply the field in snake case. */
  static readonly stateNames: StateNames = {};

  /** Training mode: batch statistics, dropout. Set it with {@link train} and {@link eval}. */
  readonly training: boolean = true;

  /** Own parameters and modules in order of definition, with their state-dict names. */
  *members(): Iterable<readonly [string, Member]> {
    const names = (this.constructor as typeof Module).stateNames;
    for (const [field, value] of Object.entries(this)) yield* membersIn(value, names[field] ?? snakeCase(field), field);
  }

  /** Every module of the tree with its path, this one first under `""`. */
  *modules(path = ""): Iterable<readonly [string, Module]> {
    yield [path, this];
    for (const [name, member] of this.members()) if (member instanceof Module) yield* member.modules(join(path, name));
  }

  /** Every parameter and buffer of the tree in PyTorch's order, with its state-dict key. */
  *state(path = ""): Iterable<readonly [string, Parameter]> {
    const own = [...this.members()];
    const parameters = own.filter((m): m is [string, Parameter] => m[1] instanceof Parameter);
    for (const wantBuffers of [false, true])
      for (const [name, p] of parameters) if (p instanceof Buffer === wantBuffers) yield [join(path, name), p];
    for (const [name, member] of own) if (member instanceof Module) yield* member.state(join(path, name));
  }

  /**
   * Trainable parameters with their keys; buffers and frozen parameters are left out. One that is used in several
   * places has several keys in the state dict, but comes once here, under its first.
   */
  *parameters(): Iterable<readonly [string, Parameter]> {
    for (const [p, key] of firstNames(this.state())) if (p.requiresGrad) yield [key, p];
  }

  /**
   * Fields that must change because parameters below now have other shapes: numbers of groups and widths that a module
   * keeps. Called of a new tree whose parameters are replaced already, layers before the blocks that hold them.
   *
   * @param _before  the module that it was made from
   * @param _shapes  of what the nodes make, where that is known
   */
  afterResize(_before: this, _shapes: ResizedShapes): object {
    return {};
  }

  /** Sets training mode (or with `false` evaluation mode) on the whole tree. */
  train(mode = true): this {
    for (const [, module] of this.modules()) (module as { training: boolean }).training = mode;
    return this;
  }

  /** Sets evaluation mode on the whole tree: running statistics, no dropout. */
  eval(): this {
    return this.train(false);
  }

  /**
   * Fills every parameter that has no values yet (with `all`, every one). Each draws from a stream of its own, seeded
   * by `seed` and its path, so that adding a layer leaves the others' values as they were.
   */
  initialize(seed = 0, { all = false }: { readonly all?: boolean } = {}): this {
    for (const [p, path] of firstNames(this.state())) if (all || !p.isSet) p.initialize(seed, path);
    return this;
  }

  /** All parameters and buffers by key. Parameters without values are initialized with seed 0. */
  stateDict(): Map<string, TensorSource> {
    this.initialize();
    return new Map([...this.state()].map(([key, p]) => [key, p.source()]));
  }

  /**
   * Takes values from a state dict by key. Nothing changes when an error is thrown. A missing `num_batches_tracked` is
   * always allowed, as files of other frameworks lack it; so is an extra one.
   *
   * @throws `state-dict/keys`, `state-dict/shape` with the keys concerned
   */
  loadStateDict(entries: ReadonlyMap<string, TensorSource>, options: LoadOptions = {}): LoadReport {
    const { strict = true, allow = () => false } = options;
    const optional = (key: string): boolean => key.endsWith("num_batches_tracked") || allow(key);
    const own = new Map(this.state());
    const missing = [...own.keys()].filter((key) => !entries.has(key));
    const unexpected = [...entries.keys()].filter((key) => !own.has(key));
    const wrong = [...missing, ...unexpected].filter((key) => !optional(key));
    must(
      !strict || !wrong.length,
      "state-dict/keys",
      () => {
        const part = (title: string, keys: readonly string[]): string =>
          keys.length ? ` ${title} ${keys.length}: ${listed(keys)}.` : "";
        return `state dict: the keys do not match the model.${part(
          "Missing",
          missing.filter((k) => !optional(k)),
        )}${part(
          "Unexpected",
          unexpected.filter((k) => !optional(k)),
        )} Check that the architecture and the form (training or deploy) are those of the file.`;
      },
      "model",
    );
    const mismatched: string[] = [];
    const fitting: [Parameter, TensorSource][] = [];
    for (const [key, p] of own) {
      const source = entries.get(key);
      if (!source) continue;
      if (sameShape(source.shape, p.shape)) fitting.push([p, source]);
      else {
        must(
          allow(key),
          "state-dict/shape",
          () => `state dict: ${key} has shape ${fmt(source.shape)} in the file, the model expects ${fmt(p.shape)}`,
          "model",
        );
        mismatched.push(key);
      }
    }
    // Reading may fail, so all of it comes before the first change.
    const ready = fitting.map(([p, t]) => [p, t.dtype === p.dtype ? t : t.readSync().cast(p.dtype)] as const);
    for (const [p, source] of ready) p.set(source);
    return { missing, unexpected, mismatched };
  }
}

/** Names by what they name: the first, where one thing has several. */
export function firstNames<T>(entries: Iterable<readonly [string, T]>): Map<T, string> {
  const names = new Map<T, string>();
  for (const [name, value] of entries) if (!names.has(value)) names.set(value, name);
  return names;
}

const join = (path: string, name: string): string => (path ? `${path}.${name}` : name);

/**
 * A copy of a module with some fields replaced; everything else is shared. The way modules change form: none is
 * changed in place.
 */
export function cloneWith<M extends Module>(module: M, changes: { readonly [K in keyof M]?: M[K] | undefined }): M {
  return Object.assign(Object.create(Object.getPrototypeOf(module)), module, changes) as M;
}

/** How {@link mapModules} changes a tree. */
export interface ModuleChanges {
  /**
   * A replacement for a module with everything below it; `undefined` goes on into the module, `null` leaves it out: the
   * field that held it is `undefined` then.
   */
  readonly module?: (module: Module, path: string) => Module | undefined | null;
  /** A replacement for a parameter. Default: a copy, which can be changed without touching the original. */
  readonly parameter?: (parameter: Parameter) => Parameter;
}

/**
 * A copy of a tree with some modules or parameters replaced. What is used in several places stays one thing in the
 * copy.
 */
export function mapModules<M extends Module>(root: M, changes: ModuleChanges = {}): M {
  const { module: replace = () => undefined, parameter: copy = (p) => p.copy() } = changes;
  const done = new Map<Member, Member | undefined>();
  const rebuild = (member: Member, path: string, replacing: boolean): Member | undefined => {
    if (done.has(member)) return done.get(member);
    if (member instanceof Parameter) return remember(member, copy(member));
    const other = replacing ? replace(member, path) : undefined;
    if (other === null) return remember(member, undefined);
    return remember(member, other ? rebuild(other, path, false) : rebuildFields(member, path, replacing));
  };
  const remember = <M extends Member | undefined>(member: Member, made: M): M => {
    done.set(member, made);
    return made;
  };
  const rebuildFields = (module: Module, path: string, replacing: boolean): Module => {
    const names = firstNames(module.members());
    const mapValues = (record: object): Record<string, unknown> =>
      Object.fromEntries(Object.entries(record).map(([key, v]) => [key, get(v)]));
    const get = (v: unknown): unknown => {
      if (isMember(v)) return rebuild(v, join(path, names.get(v)!), replacing);
      if (Array.isArray(v)) return v.map(get);
      return isRecord(v) ? mapValues(v) : v;
    };
    return cloneWith(module, mapValues(module) as never);
  };
  return rebuild(root, "", true) as M;
}

/**
 * A copy of a tree with some parameters replaced by state-dict key, also where a field that may hold one is
 * `undefined`; everything else is shared.
 *
 * @throws `state-dict/keys` for a key that names no field
 */
export function withParameters<M extends Module>(root: M, changes: ReadonlyMap<string, Parameter>): M {
  const used = new Set<string>();
  const change = (module: Module, path: string): Module => {
    const names = (module.constructor as typeof Module).stateNames;
    const replace = (value: unknown, name: string | EntryName, own: string): unknown => {
      const key = join(path, typeof name === "string" ? name : name(own));
      if (value instanceof Module) return change(value, key);
      if (value === undefined || value instanceof Parameter) {
        const next = changes.get(key);
        if (next) used.add(key);
        return next ?? value;
      }
      const inside = (entry: unknown, at: string): unknown =>
        replace(entry, typeof name === "string" ? `${name}.${at}` : name(at), at);
      if (Array.isArray(value)) return value.map((entry, i) => inside(entry, String(i)));
      if (!isRecord(value)) return value;
      return Object.fromEntries(Object.entries(value).map(([at, entry]) => [at, inside(entry, at)]));
    };
    if (![...changes.keys()].some((key) => !path || key.startsWith(`${path}.`))) return module;
    const fields = Object.entries(module).map(([f, value]) => [f, replace(value, names[f] ?? snakeCase(f), f)]);
    return cloneWith(module, Object.fromEntries(fields));
  };
  const changed = change(root, "") as M;
  const missing = [...changes.keys()].filter((key) => !used.has(key));
  must(
    !missing.length,
    "state-dict/keys",
    () => `state dict: there is no place for ${listed(missing)}. Check the names of the fields.`,
    "model",
  );
  return changed;
}

/**
 * A copy of a tree whose parameters have the given values (or shapes), by state-dict key: a narrower
 * network of the same build. Other parameters keep what they are. Whether it fits together shows when it is traced.
 */
export function resizedModule<M extends Module>(
  root: M,
  values: ReadonlyMap<string, TensorSource | Shape>,
  shapes: ResizedShapes = new Map(),
): M {
  const names = firstNames(root.state());
  const made = mapModules(root, {
    parameter: (p) => {
      const source = values.get(names.get(p)!);
      return source ? p.resized(source) : p.copy();
    },
  });
  const [before, after] = [root, made].map((tree) => [...tree.modules()].map(([, module]) => module).reverse());
  for (const [i, module] of after.entries()) Object.assign(module, module.afterResize(before[i], shapes));
  return made;
}

/** A deep copy of a module tree; values are shared until one of the two gets others. */
export const cloneModule = <M extends Module>(module: M): M => mapModules(module);

/** The same network in another dtype (floating parameters and buffers only). */
export const toDtype = <M extends Module>(module: M, dtype: "float32" | "float64" | "float16"): M =>
  mapModules(module, { parameter: (p) => (isFloating(p.dtype) ? p.to(dtype) : p.copy()) });

type Forward = (...inputs: Value[]) => unknown;

/**
 * Runs `body` while every layer of `root` names the nodes it makes after its path, and reports each layer's output to
 * `seen`. Layers are found by their `forward` methods; nothing stays changed afterwards.
 */
export function withPaths<T>(
  root: Module,
  body: () => T,
  seen?: (path: string, module: Module, output: unknown) => void,
): T {
  const undo: (() => void)[] = [];
  for (const [path, module] of root.modules()) {
    const host = module as Module & { forward?: Forward };
    const original = host.forward;
    if (!original) continue;
    const own = Object.getOwnPropertyDescriptor(host, "forward");
    undo.push(() => {
      if (own) Object.defineProperty(host, "forward", own);
      else Reflect.deleteProperty(host, "forward");
    });
    const traced: Forward = (...inputs) =>
      inLayer(path, () => {
        const output = original.apply(module, inputs);
        seen?.(path, module, output);
        return output;
      });
    // Not enumerable, so that a module's own fields stay what they were.
    Object.defineProperty(host, "forward", { value: traced, configurable: true, enumerable: false, writable: true });
  }
  try {
    return body();
  } finally {
    for (const restore of undo.reverse()) restore();
  }
}
