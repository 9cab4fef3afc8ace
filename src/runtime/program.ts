import type * as Ort from "onnxruntime-common";
import { type Graph, type LowerOptions, lower, targets } from "../graph/index.ts";
import type { OnnxModel } from "../onnx/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { fromOrt, type Platform, toOrt } from "./ort.ts";
import { type CompileOptions, checkFeeds, createSession, type Feeds, SessionOwner } from "./session.ts";

/** A compiled graph without state: tensors in, tensors out. */
export class Program extends SessionOwner {
  constructor(
    platform: Platform,
    session: Ort.InferenceSession,
    readonly model: Omit<OnnxModel, "initializers">,
  ) {
    super(platform, session);
  }

  /** Runs the graph; dtypes and shapes of the feeds are checked. `only` names the outputs that are wanted; default all. */
  async run(feeds: Feeds, only?: readonly string[]): Promise<Record<string, Tensor>> {
    checkFeeds(feeds, this.model.inputs);
    const { ort } = this.platform;
    const results = await this.execute(
      Object.fromEntries(this.model.inputs.map(({ name }) => [name, toOrt(ort, feeds[name])])),
      only && Object.fromEntries(only.map((name) => [name, null])),
    );
    return Object.fromEntries(Object.entries(results).map(([name, t]) => [name, fromOrt(t)]));
  }
}

/** Compiles a graph for inference: parameters become constants. */
export async function compile(
  graph: Graph,
  { names, metadata, target, ...options }: CompileOptions & Partial<LowerOptions> = {},
): Promise<Program> {
  const usual = options.device === "webgpu" ? targets.webgpuInference : targets.inference;
  return compileModel(lower(graph, { target: target ?? usual, names, metadata }).model, options);
}

/** Compiles an ONNX model as it is. */
export async function compileModel(model: OnnxModel, options: CompileOptions = {}): Promise<Program> {
  const { platform: host, session } = await createSession(model, options);
  const { initializers: _, ...description } = model;
  return new Program(host, session, description);
}
