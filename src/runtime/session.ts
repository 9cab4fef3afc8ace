import type * as Ort from "onnxruntime-common";
import { fmt, listed, must } from "../errors.ts";
import { encodeOnnx, encodeOnnxExternal, type OnnxModel, type OnnxValueInfo } from "../onnx/index.ts";
import { dtypes, type Shape, sizeOf, type Tensor, tensorBytes } from "../tensor/index.ts";
import { type Device, type Platform, platform, translateError } from "./ort.ts";

export interface CompileOptions {
  /** Default `cpu`. */
  readonly device?: Device;
  /** Threads of the session. Default: the physical cores. In a page all sessions share those of the first one. */
  readonly threads?: number;
  /** Further session options of ONNX Runtime. */
  readonly session?: Ort.InferenceSession.SessionOptions;
}

export type Feeds = Readonly<Record<string, Tensor>>;

/** Above this the weights are handed over beside the protobuf, whose limit is 2 GB. */
const EXTERNAL_THRESHOLD = 1.5e9;

const released = new FinalizationRegistry<Ort.InferenceSession>((session) => void session.release().catch(() => {}));

/** Owns a session and gives its memory back when it is dropped or disposed. */
export class SessionOwner {
  private open = true;

  constructor(
    readonly platform: Platform,
    protected readonly session: Ort.InferenceSession,
  ) {
    released.register(this, session, this);
  }

  /** Frees the session now; otherwise the garbage collector does. */
  async dispose(): Promise<void> {
    if (!this.open) return;
    this.open = false;
    released.unregister(this);
    await this.session.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  protected async execute(
    feeds: Record<string, Ort.Tensor>,
    fetches?: Record<string, Ort.Tensor | null>,
  ): Promise<Record<string, Ort.Tensor>> {
    must(this.open, "runtime/disposed", () => "runtime: the program was disposed. Compile it again.", "runtime");
    try {
      return (fetches ? await this.session.run(feeds, fetches) : await this.session.run(feeds)) as Record<
        string,
        Ort.Tensor
      >;
    } catch (cause) {
      throw translateError("run the graph", cause);
    }
  }
}

let creating: Promise<unknown> = Promise.resolve();

/** Creates sessions one after the other: the browser's WebGPU build can do only one at a time. */
export function createSession(
  model: OnnxModel,
  options: CompileOptions,
): Promise<{ readonly platform: Platform; readonly session: Ort.InferenceSession }> {
  const created = creating.then(() => createSessionNow(model, options));
  creating = created.catch(() => undefined);
  return created;
}

async function createSessionNow(
  model: OnnxModel,
  { device = "cpu", threads, session = {} }: CompileOptions,
): Promise<{ readonly platform: Platform; readonly session: Ort.InferenceSession }> {
  const host = await platform(device);
  if (threads) host.shareThreads?.(threads);
  const weightBytes = [...model.initializers.values()].reduce((n, t) => n + sizeOf(t.shape) * dtypes[t.dtype].bytes, 0);
  const own = host.providers(device);
  const extra = { ...own.extra, ...session.extra };
  const options: Ort.InferenceSession.SessionOptions = {
    executionMode: "sequential",
    graphOptimizationLevel: "all",
    intraOpNumThreads: threads ?? host.threads,
    logSeverityLevel: 3,
    ...own,
    ...session,
    extra: isDouble(model) ? withoutQuickGelu(extra) : extra,
  };
  try {
    if (weightBytes < EXTERNAL_THRESHOLD)
      return { platform: host, session: await host.ort.InferenceSession.create(encodeOnnx(model), options) };
    const { model: bytes, external, totalBytes } = encodeOnnxExternal(model, { location: "weights.bin" });
    const data = new Uint8Array(totalBytes);
    for (const { source, offset } of external) data.set(tensorBytes(await source.read()), offset);
    const created = await host.ort.InferenceSession.create(bytes, {
      ...options,
      externalData: [{ path: "weights.bin", data }],
    });
    return { platform: host, session: created };
  } catch (cause) {
    throw translateError("create the session", cause, weightBytes);
  }
}

const isDouble = ({ inputs, initializers }: OnnxModel): boolean =>
  [...inputs, ...initializers.values()].some(({ dtype }) => dtype === "float64");

/** ONNX Runtime makes one node of a SiLU whatever its type, and then has that node in float32 only. */
function withoutQuickGelu(extra: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { optimization = {} } = extra as { readonly optimization?: { readonly disable_specified_optimizers?: string } };
  const disabled = [optimization.disable_specified_optimizers, "QuickGeluFusion"].filter(Boolean).join(";");
  return { ...extra, optimization: { ...optimization, disable_specified_optimizers: disabled } };
}

/** Throws `runtime/feeds`, `runtime/feed-shape` unless every input is there with its dtype and shape. */
export function checkFeeds(feeds: Feeds, expected: readonly OnnxValueInfo[]): void {
  const missing = expected.filter(({ name }) => !feeds[name]).map(({ name }) => name);
  must(!missing.length, "runtime/feeds", () => `runtime: missing input ${listed(missing)}`, "runtime");
  for (const { name, dtype, shape } of expected) {
    const t = feeds[name];
    must(
      t.dtype === dtype && (!shape || sameDims(t.shape, shape)),
      "runtime/feed-shape",
      () => `runtime: input ${name} must be ${dtype} ${fmt(shape ?? [])}, got ${t.dtype} ${fmt(t.shape)}`,
      "runtime",
    );
  }
}

const sameDims = (actual: Shape, expected: readonly (number | string)[]): boolean =>
  actual.length === expected.length && expected.every((d, i) => typeof d === "string" || d === actual[i]);
