import type * as Ort from "onnxruntime-common";
import { RepmlpError } from "../errors.ts";
import { type DType, fmtBytes, Tensor, type TypedArray } from "../tensor/index.ts";

export type OrtModule = typeof Ort;

/** Where a graph runs. `cpu` is native in Node and WebAssembly in a page. */
export type Device = "cpu" | "webgpu" | "cuda" | "coreml" | "dml";

/** What a platform (Node, page) provides. */
export interface Platform {
  readonly name: "node" | "web";
  readonly ort: OrtModule;
  /** Worker threads of one session by default: OMP_NUM_THREADS or the physical cores. */
  readonly threads: number;
  /** Where sessions have no threads of their own: sets the number for all of them, before the first is made. */
  readonly shareThreads?: (threads: number) => void;
  /** Session options that select a device. */
  providers(device: Device): Ort.InferenceSession.SessionOptions;
  /** Whether `getData()` of a device tensor works; in Node it aborts the process. */
  readonly canReadDevice: boolean;
  /** Whether outputs can be written in place into buffers that we allocate. */
  readonly writesInPlace: boolean;
  /** Whether memory that is freed stays with the process, so that the runtime need not keep any for itself. */
  readonly keepsMemory: boolean;
  /** Frees buffers now which nobody reads any more, rather than when garbage is collected. */
  readonly free?: (buffers: readonly ArrayBuffer[]) => void;
}

let load: ((device: Device) => Promise<Platform>) | undefined;
const loaded = new Map<Device, Promise<Platform>>();

/** Says how to load ONNX Runtime for a device; the Node and browser entry points of the package call it. */
export function registerPlatform(loader: (device: Device) => Promise<Platform>): void {
  load = loader;
  loaded.clear();
}

/** ONNX Runtime of this platform for a device, loaded at the first use. */
export function platform(device: Device = "cpu"): Promise<Platform> {
  if (!load)
    throw new RepmlpError(
      "runtime/platform",
      "runtime: no ONNX Runtime is registered. Import from 'repmlp' (or 'repmlp/node', 'repmlp/web'), not from an inner file.",
      "runtime",
    );
  const known = loaded.get(device);
  if (known) return known;
  const made = load(device);
  loaded.set(device, made);
  return made;
}

/** Wraps a host tensor for the runtime, without a copy. */
export function toOrt(ort: OrtModule, tensor: Tensor, shape: readonly number[] = tensor.shape): Ort.Tensor {
  const { dtype } = tensor;
  if (dtype === "bfloat16")
    throw new RepmlpError("runtime/dtype", "runtime: bfloat16 tensors cannot be fed. Cast to float32.", "runtime");
  return new ort.Tensor(dtype, asOrtData(dtype, tensor.data) as Float32Array, shape);
}

/** Newer JavaScript engines have a Float16Array, and the runtime then insists on it. */
const Half = (globalThis as { Float16Array?: new (b: ArrayBuffer, o: number, n: number) => TypedArray }).Float16Array;
const asOrtData = (dtype: DType, data: TypedArray): TypedArray =>
  dtype === "float16" && Half ? new Half(data.buffer, data.byteOffset, data.length) : data;

/** Views a runtime tensor's host data as a tensor. */
export function fromOrt(tensor: Ort.Tensor): Tensor {
  const dtype = tensor.type as DType;
  const data = tensor.data as unknown as TypedArray;
  const raw = dtype === "float16" ? new Uint16Array(data.buffer, data.byteOffset, data.length) : data;
  return new Tensor(dtype, tensor.dims, raw);
}

/** ONNX Runtime's status codes (OrtErrorCode), as its messages and its WebAssembly build report them. */
const codes: Readonly<Record<number, string>> = {
  1: "failure",
  2: "invalid argument",
  3: "no such file",
  4: "no model",
  5: "engine error",
  6: "runtime exception",
  7: "invalid protobuf",
  8: "model already loaded",
  9: "not implemented",
  10: "invalid graph",
  11: "execution provider failure",
};

const noKernel = (operator: string, node: string, cause: unknown): RepmlpError =>
  new RepmlpError(
    "runtime/kernel",
    `runtime: ONNX Runtime has no ${operator} in the type that the model computes in there${node ? ` (node ${node})` : ""}, such as convolutions in float64. Write the model in float32.`,
    "model",
    { cause },
  );

/** A runtime failure in words, with what can be done about the known ones. */
export function translateError(action: string, cause: unknown, weightBytes = 0): RepmlpError {
  // What reading the weights found is no fault of the runtime.
  if (cause instanceof RepmlpError) return cause;
  const text = cause instanceof Error ? cause.message : String(cause);
  const kernel = /Could not find an implementation for (\w+)\(\d+\) node with name '([^']*)'/.exec(text);
  if (kernel) return noKernel(kernel[1], kernel[2], cause);
  const code = /\b(?:error code|ErrorCode)\D*(\d+)/i.exec(text)?.[1];
  const meaning = code && codes[Number(code)] ? ` (${codes[Number(code)]})` : "";
  // A bare large number is a C++ exception pointer of the WebAssembly build: nearly always memory.
  const bare = /^\d{5,}$/.test(text.trim());
  const memory = bare || /bad_alloc|out of memory|allocat|Array buffer allocation/i.test(text);
  const advice = memory
    ? ` The weights need ${fmtBytes(weightBytes)}; memory ran out. Use a smaller batch, or dtype float16.`
    : /not (?:supported|available)|No supported adapters|provider/i.test(text)
      ? " Try another device (cpu always works)."
      : "";
  return new RepmlpError(
    "runtime/failed",
    `runtime: ONNX Runtime could not ${action}${meaning}: ${bare ? `code ${text.trim()}` : text}.${advice}`,
    "runtime",
    { cause },
  );
}
