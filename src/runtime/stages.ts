import type * as Ort from "onnxruntime-common";
import type { Communicator, Reducible } from "../distributed/index.ts";
import { must } from "../errors.ts";
import {
  asRandom,
  input,
  isExchanged,
  type Lowered,
  lower,
  type Node,
  reachable,
  substitute,
  targets,
  type Value,
} from "../graph/index.ts";
import { sizeOf, Tensor } from "../tensor/index.ts";
import { fromOrt, type Platform, platform, toOrt } from "./ort.ts";
import { type CompileOptions, checkFeeds, createSession, type Feeds, SessionOwner } from "./session.ts";
import {
  type BatchShare,
  drawRandom,
  loadState,
  nextName,
  type RunningStep,
  type StepGraph,
  StepState,
  stepOutputs,
  trainingSession,
} from "./step.ts";

/*
 * A step in which processes exchange values (batch norms by the statistics of all) cannot be one ONNX graph. It is cut where
 * they do: stage 0 computes all that needs no exchange, stage k what needs k of them one after the other. What independent
 * layers exchange at the same stage goes in one message.
 */

/** What becomes of the values of a graph when it is cut. */
interface Plan {
  /** Stage of every node. */
  readonly stages: ReadonlyMap<Node, number>;
  readonly count: number;
  /** Values that later stages read, by their names. */
  readonly kept: ReadonlyMap<Value, string>;
  /** Sums over processes by number: what is sent, and the value that comes back. */
  readonly exchanges: readonly { readonly sent: Value; readonly received: Value }[];
  readonly randoms: readonly { readonly name: string; readonly value: Value }[];
}

/** Parameters, inputs and constants are there in every stage, and so is another look at them. */
const isFree = (v: Value): boolean =>
  v.node.inputs.length === 0 || (v.node.op.name === "reshape" && isFree(v.node.inputs[0]));

function planOf(outputs: readonly Value[]): Plan {
  const nodes = reachable(outputs);
  const stages = new Map<Node, number>();
  const exchanges: { sent: Value; received: Value }[] = [];
  for (const node of nodes) {
    const before = Math.max(0, ...node.inputs.map((v) => stages.get(v.node)!));
    const [received] = node.outputs;
    if (isExchanged(received)) exchanges.push({ sent: node.inputs[0], received });
    stages.set(node, isExchanged(received) ? before + 1 : before);
  }
  const kept = new Map<Value, string>();
  for (const node of nodes) {
    if (isExchanged(node.outputs[0])) continue;
    for (const v of node.inputs)
      if (!isFree(v) && !isExchanged(v) && stages.get(v.node)! < stages.get(node)! && !kept.has(v))
        kept.set(v, `kept:${kept.size}`);
  }
  const drawn = nodes.map(({ outputs: [value] }) => value).filter((value) => asRandom(value));
  return {
    ...{ stages, kept, exchanges },
    count: 1 + Math.max(...outputs.map((v) => stages.get(v.node)!)),
    // Under the names that they have in one graph, so that the same numbers are drawn.
    randoms: drawn.map((value, i) => ({ name: `random:${i}`, value })),
  };
}

/** Room for so many values, by the element types that are exchanged. */
const messages: Readonly<Record<string, (length: number) => Reducible>> = {
  float32: (length) => new Float32Array(length),
  float64: (length) => new Float64Array(length),
};

class Stage extends SessionOwner {
  constructor(
    platform: Platform,
    session: Ort.InferenceSession,
    readonly lowered: Lowered,
    /** Numbers of the plan's exchanges after this stage. */
    readonly exchanges: readonly number[],
  ) {
    super(platform, session);
  }

  run(inputs: Record<string, Ort.Tensor>): Promise<Record<string, Ort.Tensor>> {
    return this.execute(inputs);
  }
}

/** A compiled step in stages; see {@link StepProgram}. */
class StagedProgram implements RunningStep {
  constructor(
    private readonly platform: Platform,
    private readonly stages: readonly Stage[],
    private readonly plan: Plan,
    private readonly communicator: Communicator,
    private readonly changed: readonly string[],
    readonly state: StepState,
  ) {}

  async step(feeds: Feeds, seed = 0, share?: BatchShare): Promise<Record<string, Tensor>> {
    const { ort } = this.platform;
    const values = new Map<string, Ort.Tensor>();
    for (const { name, value } of this.plan.randoms)
      values.set(name, toOrt(ort, drawRandom(value.node, name, seed, share)));
    for (const [i, stage] of this.stages.entries()) {
      const { inputs } = stage.lowered.model;
      const own = inputs.filter(({ name }) => !isInner(name) && !stage.lowered.parameters.has(name));
      checkFeeds(feeds, own);
      for (const { name } of own) values.set(name, toOrt(ort, feeds[name]));
      const fed = inputs.map(({ name }) => [name, values.get(name) ?? this.state.current.get(name)!] as const);
      for (const [name, value] of Object.entries(await stage.run(Object.fromEntries(fed)))) values.set(name, value);
      await this.exchange(stage.exchanges, values);
      this.forget(i, values);
    }
    for (const name of this.changed) this.state.current.set(name, values.get(nextName(name))!);
    const results = [...values].filter(
      ([name]) => !isInner(name) && !name.startsWith(nextName("")) && !(name in feeds),
    );
    return Object.fromEntries(results.map(([name, value]) => [name, fromOrt(value)]));
  }

  /** One message for all of an element type that is exchanged after a stage. */
  private async exchange(numbers: readonly number[], values: Map<string, Ort.Tensor>): Promise<void> {
    for (const [dtype, empty] of Object.entries(messages)) {
      const own = numbers.filter((i) => this.plan.exchanges[i].sent.dtype === dtype);
      const sizes = own.map((i) => sizeOf(this.plan.exchanges[i].sent.shape));
      const message = empty(sizes.reduce((a, b) => a + b, 0));
      let at = 0;
      for (const [k, i] of own.entries()) {
        message.set(values.get(`sent:${i}`)!.data as Float32Array, at);
        at += sizes[k];
      }
      if (own.length) await this.communicator.allReduce(message);
      at = 0;
      for (const [k, i] of own.entries()) {
        const { dtype: type, shape } = this.plan.exchanges[i].received;
        values.set(
          `received:${i}`,
          toOrt(this.platform.ort, new Tensor(type, shape, message.slice(at, at + sizes[k]))),
        );
        at += sizes[k];
      }
    }
  }

  /** Frees what no later stage reads. */
  private forget(stage: number, values: Map<string, Ort.Tensor>): void {
    const later = new Set(
      this.stages.slice(stage + 1).flatMap(({ lowered }) => lowered.model.inputs.map(({ name }) => name)),
    );
    const gone = [...values].filter(([name]) => name.startsWith("kept:") && !later.has(name));
    for (const [name] of gone) values.delete(name);
    this.platform.free?.(gone.map(([, { data }]) => (data as Float32Array<ArrayBuffer>).buffer));
  }

  async dispose(): Promise<void> {
    await Promise.all(this.stages.map((stage) => stage.dispose()));
  }
}

/** Names of what passes between stages, and of what the host draws. */
const isInner = (name: string): boolean => /^(kept|sent|received|random):/.test(name);

/**
 * Compiles a step in which the processes of `communicator` exchange values, on the CPU; all of them compile the same one.
 *
 * @throws `step/processes` on another device
 */
export async function compileSharedStep(
  graph: StepGraph,
  communicator: Communicator,
  {
    state = new StepState(),
    device = "cpu",
    session = {},
    ...options
  }: CompileOptions & { readonly state?: StepState } = {},
): Promise<RunningStep> {
  must(
    device === "cpu",
    "step/processes",
    () =>
      `step: batch norms by the statistics of all processes are there on the CPU alone, not on ${device}. Use local or averaged ones.`,
    "usage",
  );
  const { outputs, changed } = stepOutputs(graph);
  const plan = planOf(Object.values(outputs));
  const known = new Map<Value, Value>(
    plan.randoms.map(({ name, value }) => [value, input(name, value.shape, value.dtype)]),
  );
  const host = await platform(device);
  state.lieOn(host, device);
  const training = trainingSession(host, device);
  const stages: Stage[] = [];
  for (let number = 0; number < plan.count; number++) {
    const here = (v: Value): boolean => plan.stages.get(v.node) === number;
    const kept = [...plan.kept].filter(([v]) => here(v));
    const sent = plan.exchanges.flatMap(({ sent: v }, i) => (here(v) ? [i] : []));
    const wanted: [string, Value][] = [
      ...Object.entries(outputs).filter(([, v]) => here(v)),
      ...kept.map(([v, name]): [string, Value] => [name, v]),
      ...sent.map((i): [string, Value] => [`sent:${i}`, plan.exchanges[i].sent]),
    ];
    const values = substitute(
      wanted.map(([, v]) => v),
      known,
    );
    const lowered = lower(
      { outputs: Object.fromEntries(wanted.map(([name], i) => [name, values[i]])) },
      {
        ...{ target: targets.cpuTraining, names: graph.names, shapesFrom: graph.shapesFrom },
        asTheyLie: new Set(kept.map(([, name]) => name)),
      },
    );
    for (const [v, name] of kept) known.set(v, input(name, v.shape, v.dtype, lowered.layouts.get(name)));
    for (const i of sent) {
      const { received } = plan.exchanges[i];
      known.set(received, input(`received:${i}`, received.shape, received.dtype));
    }
    const created = await createSession(lowered.model, { ...options, device, session: { ...training, ...session } });
    stages.push(new Stage(created.platform, created.session, lowered, sent));
    for (const [name, ref] of lowered.parameters) await loadState(state, host, name, ref);
  }
  for (const ref of graph.next.keys()) await loadState(state, host, graph.names.get(ref)!, ref);
  return new StagedProgram(host, stages, plan, communicator, changed, state);
}
