import type * as Ort from "onnxruntime-common";
import { fmt, must } from "../errors.ts";
import { type Graph, type Lowered, type LowerOptions, lower, type ParameterRef, targets } from "../graph/index.ts";
import type { OnnxModel } from "../onnx/index.ts";
import { type DType, rng, type Shape, sizeOf, Tensor } from "../tensor/index.ts";
import { writtenInPlace } from "./in-place.ts";
import { type Device, fromOrt, type Platform, platform, toOrt } from "./ort.ts";
import { type CompileOptions, checkFeeds, createSession, type Feeds, SessionOwner } from "./session.ts";

/** One state tensor of a step: which graph input it is and which output replaces it. */
export interface StateSlot {
  /** The parameter's or state's input name; its next value is the output of the same name with `next:` before it. */
  readonly name: string;
  readonly ref: ParameterRef;
}

export interface StepGraph {
  /** Outputs that are not state: loss, metrics. */
  readonly outputs: Graph["outputs"];
  /** Next value of each state tensor (parameters, optimizer state, statistics) that the step changes. */
  readonly next: ReadonlyMap<ParameterRef, Graph["outputs"][string]>;
  /** Names of all parameters and state, changed or not. */
  readonly names: ReadonlyMap<ParameterRef, string>;
  /** See {@link LowerOptions}. */
  readonly shapesFrom?: string;
}

/** @internal */
export const nextName = (name: string): string => `next:${name}`;

/** Which pictures of a batch a run has before it: `count` from `start` on. */
export interface BatchShare {
  readonly start: number;
  readonly count: number;
}

/** Values of state tensors by name, as given to or read from a {@link StepProgram}. */
export type State = Map<string, Tensor>;

/** Memory that several step programs (one per batch size) share: the present values of the state. */
export class StepState {
  /** @internal */ readonly current = new Map<string, Ort.Tensor>();
  /** @internal */ readonly spare = new Map<string, Ort.Tensor>();
  /** @internal */ readonly shapes = new Map<string, Shape>();
  private where: { readonly platform: Platform; readonly device: Device } | undefined;

  /** Where the programs run. @internal */
  get host(): { readonly platform: Platform; readonly device: Device } {
    must(this.where, "internal/state", () => "internal: state without a program", "runtime");
    return this.where;
  }

  /** Notes where the programs run. @internal */
  lieOn(platform: Platform, device: Device): void {
    this.where = { platform, device };
  }

  /**
   * Frees what lies in the memory of a device; host memory goes with its last user. To be called before the programs are
   * disposed of: a session takes the means to free its tensors with it.
   */
  dispose(): void {
    for (const [name, tensor] of this.current) {
      if (tensor.location !== "gpu-buffer") continue;
      tensor.dispose();
      this.current.delete(name);
    }
  }

  /** Copies the present state to the host. */
  async read(names: Iterable<string> = this.current.keys()): Promise<State> {
    const wanted = [...names];
    const { current, shapes } = this;
    const onDevice = wanted.filter((n) => current.get(n)?.location === "gpu-buffer");
    const fetched = onDevice.length ? await this.download(onDevice) : new Map<string, Tensor>();
    return new Map(
      wanted.map((name) => {
        const t = fetched.get(name) ?? fromOrt(current.get(name)!);
        return [name, new Tensor(t.dtype, shapes.get(name)!, t.data.slice() as Tensor["data"])];
      }),
    );
  }

  /** Replaces values between two runs, of any program that shares the state; names that none of them holds are left out. */
  write(values: ReadonlyMap<string, Tensor>): void {
    const { current } = this;
    for (const [name, { dtype, size, data }] of values) {
      const old = current.get(name);
      if (!old) continue;
      const copy = new Tensor(dtype, [size], data.slice() as Tensor["data"]);
      // On a device, the next run takes the host's values there.
      current.set(name, toOrt(this.host.platform.ort, copy));
      if (old.location === "gpu-buffer") old.dispose();
    }
  }

  /**
   * Lets `change` write over present values, float32, between two runs: those of a device are copied to the host and back.
   */
  async change(
    names: readonly string[],
    change: (values: readonly Float32Array<ArrayBuffer>[]) => Promise<void>,
  ): Promise<void> {
    const { current } = this;
    const onHost = names.every((name) => current.get(name)!.location === "cpu");
    const state = onHost ? undefined : await this.read(names);
    const values = names.map((name) => (state?.get(name) ?? current.get(name)!).data);
    await change(values as Float32Array<ArrayBuffer>[]);
    if (state) this.write(state);
  }

  private async download(names: readonly string[]): Promise<State> {
    const { current } = this;
    if (this.host.platform.canReadDevice) {
      const read = async (name: string): Promise<[string, Tensor]> => {
        const t = current.get(name)!;
        return [name, new Tensor(t.type as DType, t.dims, (await t.getData()) as unknown as Tensor["data"])];
      };
      return new Map(await Promise.all(names.map(read)));
    }
    // A session that only copies, whose outputs are on the host.
    const infos = names.map((name) => ({
      name,
      dtype: current.get(name)!.type as DType,
      shape: current.get(name)!.dims,
    }));
    const copy: OnnxModel = {
      nodes: infos.map(({ name }) => ({
        opType: "Identity",
        inputs: [name],
        outputs: [`host:${name}`],
        name,
        attrs: {},
      })),
      inputs: infos,
      outputs: infos.map((i) => ({ ...i, name: `host:${i.name}` })),
      initializers: new Map(),
      opset: 17,
    };
    const { session } = await createSession(copy, { device: this.host.device });
    const results = await session.run(Object.fromEntries(names.map((n) => [n, current.get(n)!])));
    await session.release();
    return new Map(names.map((n) => [n, fromOrt(results[`host:${n}`])]));
  }
}

/**
 * A compiled step: state stays with the program between runs. On the CPU the new values take the place of the old ones
 * where no node can read those later, and alternate between two buffers elsewhere; on WebGPU they stay on the device. A
 * run that fails midway, for lack of memory, may leave values of both.
 */
export class StepProgram extends SessionOwner {
  constructor(
    platform: Platform,
    session: Ort.InferenceSession,
    private readonly lowered: Lowered,
    private readonly changed: readonly string[],
    private readonly inPlace: ReadonlySet<string>,
    private readonly device: Device,
    readonly state: StepState,
  ) {
    super(platform, session);
  }

  /** Nodes of the compiled graph, for reports and regression checks. */
  get model(): OnnxModel {
    return this.lowered.model;
  }

  /**
   * Runs one step and keeps the new state.
   *
   * @param seed   seed of the step's random inputs (dropout masks); the same seed gives the same masks
   * @param share  takes those pictures' part of the random inputs of a larger batch
   */
  async step(feeds: Feeds, seed = 0, share?: BatchShare): Promise<Record<string, Tensor>> {
    const { ort } = this.platform;
    const { model, randoms, parameters } = this.lowered;
    const own = model.inputs.filter(({ name }) => !parameters.has(name) && !name.startsWith("random:"));
    checkFeeds(feeds, own);
    const inputs: Record<string, Ort.Tensor> = {};
    for (const { name } of own) inputs[name] = toOrt(ort, feeds[name]);
    for (const { name, node } of randoms) inputs[name] = toOrt(ort, drawRandom(node, name, seed, share));
    for (const name of parameters.keys()) inputs[name] = this.state.current.get(name)!;
    const fetches = this.device === "cpu" && this.platform.writesInPlace ? this.fetches() : undefined;
    const results = await this.execute(inputs, fetches);
    if (fetches) this.freeCopies(results, fetches);
    this.advance(results, !!fetches);
    const outputs = model.outputs.filter(({ name }) => !name.startsWith("next:"));
    return Object.fromEntries(outputs.map(({ name }) => [name, fromOrt(results[name])]));
  }

  private fetches(): Record<string, Ort.Tensor | null> {
    const fetches: Record<string, Ort.Tensor | null> = {};
    for (const { name } of this.lowered.model.outputs) fetches[name] = null;
    for (const name of this.changed) {
      const current = this.state.current.get(name)!;
      fetches[nextName(name)] = this.inPlace.has(name) ? current : this.spareFor(name, current);
    }
    return fetches;
  }

  private spareFor(name: string, { type, dims }: Ort.Tensor): Ort.Tensor {
    const known = this.state.spare.get(name);
    if (known) return known;
    const made = toOrt(this.platform.ort, Tensor.zeros(type as DType, dims));
    this.state.spare.set(name, made);
    return made;
  }

  /** The binding also returns a copy of each tensor that it wrote in place. */
  private freeCopies(
    results: Readonly<Record<string, Ort.Tensor>>,
    fetches: Readonly<Record<string, Ort.Tensor | null>>,
  ): void {
    const bufferOf = (t: Ort.Tensor): ArrayBuffer => (t.data as Float32Array<ArrayBuffer>).buffer;
    const copies = Object.entries(fetches).flatMap(([name, own]) => {
      const copy = own && bufferOf(results[name]);
      return copy && copy !== bufferOf(own) ? [copy] : [];
    });
    this.platform.free?.(copies);
  }

  private advance(results: Record<string, Ort.Tensor>, preallocated: boolean): void {
    const { current, spare } = this.state;
    for (const name of this.changed) {
      if (preallocated && this.inPlace.has(name)) continue;
      const old = current.get(name)!;
      if (preallocated) {
        current.set(name, spare.get(name)!);
        spare.set(name, old);
      } else {
        current.set(name, results[nextName(name)]);
        if (old.location === "gpu-buffer") old.dispose();
      }
    }
  }

  /** Copies the present state to the host. */
  readState(names?: Iterable<string>): Promise<State> {
    return this.state.read(names);
  }

  /** Replaces values between two runs; see {@link StepState.write}. */
  writeState(values: ReadonlyMap<string, Tensor>): void {
    this.state.write(values);
  }
}

/** Draws the numbers of one random input. @internal */
export function drawRandom(
  node: Lowered["randoms"][number]["node"],
  name: string,
  seed: number,
  share?: BatchShare,
): Tensor {
  const { spec, type } = node.attrs as {
    readonly spec: { readonly distribution: string; readonly p?: number };
    readonly type: { readonly dtype: DType; readonly shape: Shape };
  };
  const stream = rng(seed, `${node.path}/${name}`);
  const values = new Float32Array(sizeOf(type.shape));
  const { p = 0.5 } = spec;
  // Pictures come first in what is drawn for them.
  const [rows] = type.shape;
  if (share && rows % share.count === 0)
    for (let i = (share.start * values.length) / share.count; i > 0; i--) stream.next();
  for (let i = 0; i < values.length; i++)
    values[i] = spec.distribution === "uniform" ? stream.next() : stream.next() < p ? 1 : 0;
  return Tensor.of(type.dtype, type.shape, values);
}

/** What runs a step again and again, with state of its own. */
export type RunningStep = Pick<StepProgram, "state" | "step" | "dispose">;

/** A step as {@link compileStep} gives it to the runtime. */
export interface LoweredStep {
  readonly lowered: Lowered;
  /** Names of the state tensors that it changes. */
  readonly changed: readonly string[];
  /** Those of them whose new values may be written over the old ones. */
  readonly inPlace: ReadonlySet<string>;
}

/** Writes a step as an ONNX model for a device. */
export function lowerStep(
  graph: StepGraph,
  device: Device = "cpu",
  options: Pick<LowerOptions, "valueInfo"> = {},
): LoweredStep {
  const { names, shapesFrom } = graph;
  const target = device === "webgpu" ? targets.webgpuTraining : targets.cpuTraining;
  const { outputs, changed } = stepOutputs(graph);
  const lowered = lower({ outputs }, { ...options, target, names, shapesFrom });
  const inPlace = writtenInPlace(
    lowered.model,
    changed.map((name) => [name, nextName(name)]),
  );
  return { lowered, changed, inPlace };
}

/** All outputs of a step, those of the new state by {@link nextName}, and the names of the state that changes. @internal */
export function stepOutputs({ outputs, next, names }: StepGraph): {
  readonly outputs: Graph["outputs"];
  readonly changed: readonly string[];
} {
  const changed = [...next].map(([ref, value]) => [stateName(ref, value, names), value] as const);
  const nextOutputs = Object.fromEntries(changed.map(([name, value]) => [nextName(name), value]));
  return { outputs: { ...outputs, ...nextOutputs }, changed: changed.map(([name]) => name) };
}

/** Session options of a step. @internal */
export const trainingSession = ({ keepsMemory }: Platform, device: Device): Ort.InferenceSession.SessionOptions => ({
  // What the runtime keeps for itself would lie beside the copies of the new state that it returns.
  ...(device === "cpu" && keepsMemory && { enableCpuMemArena: false }),
  // A memory pattern keeps one block of all tensors of a step beside what was allocated before it was known: a quarter
  // to a third more memory, and no faster (bench/NOTES.md).
  enableMemPattern: false,
  // Equal nodes were written once; the runtime's search for them takes a quarter of the time to create a session.
  extra: { optimization: { disable_specified_optimizers: "CommonSubexpressionElimination" } },
});

/** Gives a state tensor its first value, unless it has one. @internal */
export async function loadState(state: StepState, { ort }: Platform, name: string, ref: ParameterRef): Promise<void> {
  state.shapes.set(name, ref.shape);
  if (state.current.has(name)) return;
  const tensor = await ref.source().read();
  // The program writes into its buffers, so they must not be the parameter's own.
  const copy = new Tensor(tensor.dtype, [tensor.size], tensor.data.slice() as Tensor["data"]);
  state.current.set(name, toOrt(ort, copy));
}

/**
 * Compiles a step. State that is not in `state` yet starts from the parameters' present values; programs that share a
 * `state` continue each other.
 */
export async function compileStep(
  graph: StepGraph,
  {
    state = new StepState(),
    device = "cpu",
    session = {},
    ...options
  }: CompileOptions & { readonly state?: StepState } = {},
): Promise<StepProgram> {
  const { lowered, changed, inPlace } = lowerStep(graph, device);
  const preferred =
    device === "webgpu"
      ? { preferredOutputLocation: Object.fromEntries(changed.map((name) => [nextName(name), "gpu-buffer" as const])) }
      : {};
  const training = trainingSession(await platform(device), device);
  const created = await createSession(lowered.model, {
    ...options,
    device,
    session: { ...training, ...preferred, ...session },
  });
  state.lieOn(created.platform, device);
  for (const [name, ref] of lowered.parameters) await loadState(state, created.platform, name, ref);
  for (const ref of graph.next.keys()) await loadState(state, created.platform, graph.names.get(ref)!, ref);
  return new StepProgram(created.platform, created.session, lowered, changed, inPlace, device, state);
}

/** Name of a state tensor; its next value must be such as to take its place: a vector of as many values. */
function stateName(ref: ParameterRef, next: Graph["outputs"][string], names: StepGraph["names"]): string {
  const name = names.get(ref);
  must(
    name,
    "step/name",
    () => `step: a state tensor of shape ${fmt(ref.shape)} is changed but has no name. Add it to names.`,
    "model",
  );
  must(
    next.shape.length === 1 && next.shape[0] === sizeOf(ref.shape) && next.dtype === ref.dtype,
    "step/state",
    () =>
      `step: the next value of ${name} must be ${ref.dtype} [${sizeOf(ref.shape)}], got ${next.dtype} ${fmt(next.shape)}. Reshape it to [-1].`,
  );
  return name;
}
