import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { RepmlpError } from "../../errors.ts";
import { type Device, type OrtModule, type Platform, registerPlatform } from "../ort.ts";

/**
 * Threads of a session that nobody gives a number: OMP_NUM_THREADS, which says it to most programs of this kind where
 * several processes share the cores, else the physical cores.
 */
export function defaultThreads(env: NodeJS.ProcessEnv = process.env): number {
  const wanted = Number(env.OMP_NUM_THREADS?.split(",")[0]);
  return Number.isInteger(wanted) && wanted > 0 ? wanted : physicalCores();
}

/** Those that this process may use; hyper-threads do not speed up matrix products. */
function physicalCores(): number {
  const usable = availableParallelism();
  if (process.platform !== "linux") return usable;
  try {
    const pairs = [
      ...readFileSync("/proc/cpuinfo", "utf8").matchAll(/physical id\s*:\s*(\d+)[\s\S]*?core id\s*:\s*(\d+)/g),
    ];
    const cores = new Set(pairs.map(([, chip, core]) => `${chip}/${core}`)).size;
    return cores ? Math.min(cores, usable) : usable;
  } catch {
    return usable;
  }
}

/** What is sent through a port without another end is freed; its buffers are empty from then on. */
function free(buffers: readonly ArrayBuffer[]): void {
  nowhere ??= closedPort();
  nowhere.postMessage(undefined, [...buffers]);
}

let nowhere: MessagePort | undefined;

function closedPort(): MessagePort {
  const { port1 } = new MessageChannel();
  port1.close();
  return port1;
}

/** Registers `onnxruntime-node`, loaded at the first use. */
export const registerNode = (): void =>
  registerPlatform(async (): Promise<Platform> => {
    let ort: OrtModule;
    try {
      // require() is several times faster here than import(), which analyses the CommonJS exports.
      ort = createRequire(import.meta.url)("onnxruntime-node") as OrtModule;
    } catch (cause) {
      throw new RepmlpError(
        "runtime/load",
        `runtime: onnxruntime-node could not be loaded on ${process.platform} ${process.arch}: ${String((cause as Error).message)}. Run npm install again.`,
        "runtime",
        { cause },
      );
    }
    return {
      name: "node",
      ort,
      threads: defaultThreads(),
      canReadDevice: false,
      writesInPlace: true,
      keepsMemory: process.env.GLIBC_TUNABLES?.includes("glibc.malloc.trim_threshold") ?? false,
      free,
      providers: (device: Device) => ({
        executionProviders: device === "cpu" ? ["cpu"] : [device, "cpu"],
        extra: { session: { set_denormal_as_zero: "1" } },
      }),
    };
  });
