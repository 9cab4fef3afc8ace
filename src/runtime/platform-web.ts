import { RepmlpError } from "../errors.ts";
import { type Device, type OrtModule, type Platform, registerPlatform } from "./ort.ts";

/** The WebAssembly build is half the size of the one that also knows WebGPU, so each device loads its own. */
const builds: Readonly<Record<"wasm" | "webgpu", () => Promise<unknown>>> = {
  wasm: () => import("onnxruntime-web/wasm"),
  webgpu: () => import("onnxruntime-web/webgpu"),
};

/** `onnxruntime-web` is an optional peer of this package, since programs for Node do without its 139 MB. */
async function load(device: "wasm" | "webgpu"): Promise<OrtModule> {
  try {
    return (await builds[device]()) as OrtModule;
  } catch (cause) {
    throw new RepmlpError(
      "runtime/load",
      `runtime: onnxruntime-web could not be loaded (${cause instanceof Error ? cause.message : cause}). In a page repmlp runs on it: add it to your project with npm install onnxruntime-web, in the version that repmlp's peerDependencies name.`,
      "runtime",
      { cause },
    );
  }
}

/** Threads need a cross-origin isolated page (`COOP: same-origin`, `COEP: require-corp`). */
const usableThreads = (): number => (globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1);

/** Registers `onnxruntime-web`: WebAssembly as `cpu`, and `webgpu`. Loaded at the first use. */
export const registerWeb = (): void =>
  registerPlatform(async (device: Device): Promise<Platform> => {
    const ort = await load(device === "webgpu" ? "webgpu" : "wasm");
    const threads = usableThreads();
    ort.env.wasm.numThreads = threads;
    return {
      name: "web",
      ort,
      threads,
      shareThreads: (wanted: number) => {
        ort.env.wasm.numThreads = Math.min(wanted, threads);
      },
      canReadDevice: true,
      writesInPlace: false,
      keepsMemory: false,
      providers: (wanted: Device) => ({ executionProviders: [wanted === "cpu" ? "wasm" : wanted] }),
    };
  });
