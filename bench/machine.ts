import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, cpus, platform, release, totalmem } from "node:os";

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

/** The first Python with PyTorch: the one that PYTHON names, `python3`, the system's. */
export const findPython = (): string | undefined =>
  [process.env.PYTHON, "python3", "/usr/bin/python3"].find(
    (path) => path && spawnSync(path, ["-c", "import torch"]).status === 0,
  );

const packages = [
  "onnxruntime-node",
  "onnxruntime-web",
  "@tensorflow/tfjs-backend-wasm",
  "@jax-js/jax",
  "sharp",
] as const;

/** Versions of everything that takes part. */
export function versions(python: string | undefined): Readonly<Record<string, string>> {
  const root = createRequire(import.meta.url).resolve("../package.json");
  const versionOf = (name: string): string =>
    (JSON.parse(readFileSync(root.replace(/package\.json$/, `node_modules/${name}/package.json`), "utf8")) as Own)
      .version;
  const own = JSON.parse(readFileSync(root, "utf8")) as Own;
  return {
    repmlp: own.version,
    node: process.versions.node,
    ...Object.fromEntries(packages.map((name) => [name, versionOf(name)])),
    ...(python && pythonVersions(python)),
  };
}

interface Own {
  readonly version: string;
}

function pythonVersions(python: string): Readonly<Record<string, string>> {
  const code = [
    "import json, platform, torch",
    "found = {'python': platform.python_version(), 'torch': torch.__version__}",
    "try:\n import torchvision\n found['torchvision'] = torchvision.__version__\nexcept ImportError:\n pass",
    "print(json.dumps(found))",
  ].join("\n");
  const { stdout } = spawnSync(python, ["-c", code], { encoding: "utf8" });
  return JSON.parse(stdout) as Record<string, string>;
}
