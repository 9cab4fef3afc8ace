import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, cpus, platform, release, totalmem } from "node:os";
import type { Python } from "./case.ts";

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  /** Vector extensions of the processor that matter for matrix work. */
  readonly vector: readonly string[];
  readonly memoryGb: number;
  readonly system: string;
}

export const machine = (): Machine => ({
  cpu: cpus()[0]?.model.trim() ?? "unknown",
  cores: availableParallelism(),
  vector: vectorExtensions(),
  memoryGb: Math.round(totalmem() / 2 ** 30),
  system: `${platform()} ${release()}`,
});

function vectorExtensions(): string[] {
  try {
    const flags = /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "";
    return flags.split(/\s+/).filter((flag) => /^(avx|fma$|amx|f16c$)/.test(flag));
  } catch {
    return [];
  }
}

/** What lies in an interpreter that has PyTorch. */
function pythonAt(program: string): Python | undefined {
  const { stdout, status } = spawnSync(program, ["-c", "import torch; print(torch.__version__)"], { encoding: "utf8" });
  return status === 0 ? { program, torch: stdout.trim().split(".").slice(0, 2).join(".") } : undefined;
}

/**
 * Those that are named, else those that PYTHON names (with commas between), else the first of `python3` and the
 * system's that has PyTorch.
 *
 * @throws when one that is named has no PyTorch, or two have the same version of it
 */
export function findPythons(named: readonly string[]): readonly Python[] {
  const wanted = named.length ? named : (process.env.PYTHON ?? "").split(",").filter(Boolean);
  const usual = (): (Python | undefined)[] => [pythonAt("python3") ?? pythonAt("/usr/bin/python3")];
  const found = wanted.length
    ? wanted.map((program) => {
        const python = pythonAt(program);
        if (!python) throw new Error(`${program} does not run or cannot import torch. Name another Python`);
        return python;
      })
    : usual();
  const pythons = found.filter((p) => p !== undefined);
  for (const [i, { torch, program }] of pythons.entries()) {
    const first = pythons.findIndex((p) => p.torch === torch);
    if (first !== i) throw new Error(`${pythons[first].program} and ${program} both have PyTorch ${torch}. Name one`);
  }
  return pythons;
}

const packages = [
  "onnxruntime-node",
  "onnxruntime-web",
  "@tensorflow/tfjs-backend-wasm",
  "@jax-js/jax",
  "sharp",
] as const;

/** Versions of everything that takes part. */
export function versions(pythons: readonly Python[]): Readonly<Record<string, string>> {
  const root = createRequire(import.meta.url).resolve("../package.json");
  const versionOf = (name: string): string =>
    (JSON.parse(readFileSync(root.replace(/package\.json$/, `node_modules/${name}/package.json`), "utf8")) as Own)
      .version;
  const own = JSON.parse(readFileSync(root, "utf8")) as Own;
  return {
    repmlp: own.version,
    node: process.versions.node,
    ...Object.fromEntries(packages.map((name) => [name, versionOf(name)])),
    ...pythonVersions(pythons),
  };
}

interface Own {
  readonly version: string;
}

/** In the order of the interpreters, with commas between. */
function pythonVersions(pythons: readonly Python[]): Readonly<Record<string, string>> {
  const code = [
    "import json, platform, torch",
    "found = {'python': platform.python_version(), 'torch': torch.__version__}",
    "try:\n import torchvision\n found['torchvision'] = torchvision.__version__\nexcept ImportError:\n pass",
    "print(json.dumps(found))",
  ].join("\n");
  const all = pythons.map(({ program }) => {
    const { stdout } = spawnSync(program, ["-c", code], { encoding: "utf8" });
    return JSON.parse(stdout) as Record<string, string>;
  });
  const names = [...new Set(all.flatMap((found) => Object.keys(found)))];
  return Object.fromEntries(names.map((name) => [name, all.map((found) => found[name] ?? "none").join(", ")]));
}
