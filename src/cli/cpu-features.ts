import { existsSync, readFileSync } from "node:fs";

/** Instruction sets that decide how fast matrix products are, and whether those of integers are exact. */
const FEATURES = ["avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile", "asimd", "sve"];

/** Those of {@link FEATURES} that this CPU has; `undefined` on systems that do not say. */
export function cpuFeatures(): readonly string[] | undefined {
  const flags = existsSync("/proc/cpuinfo")
    ? /^(?:flags|Features)\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1].split(/\s+/)
    : undefined;
  return flags && FEATURES.filter((name) => flags.includes(name));
}

/** Whether sums of uint8 × int8 products saturate in 16 bits here: x86 without VNNI. */
export function saturates(features: readonly string[] | undefined): boolean {
  return process.arch === "x64" && features !== undefined && !features.some((name) => name.endsWith("vnni"));
}
