import { type Device, type OrtModule, type Platform, registerPlatform } from "./ort.ts";

/** The WebAssembly build is half the size of the one that also knows WebGPU, so each device loads its own. */
const builds: Readonly<Record<"wasm" | "webgpu", () => Promise<unknown>>> = {
  wasm: () => import("onnxruntime-web/wasm"),
  webgpu: () => import("onnxruntime-web/webgpu"),
};

/** Threads need a cross-origin isolated page (`COOP: same-origin`, `COEP: require-corp`). */
const usableThreads = (): number => (globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1);

/** Registers `onnxruntime-web`: WebAssembly as `cpu`, and `webgpu`. Loaded at the first use. */
export const registerWeb = (): void =>
  registerPlatform(async (device: Device): Promise<Platform> => {
    const ort = (await builds[device === "webgpu" ? "webgpu" : "wasm"]()) as OrtModule;
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
