import { createRequire } from "node:module";
import { availableParallelism, cpus, freemem, totalmem } from "node:os";
import { launchOf } from "../../distributed/index.ts";
import { type Koffi, loadKoffi, mpiLibraries } from "../../distributed/node/index.ts";
import { platform } from "../../runtime/index.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { fmtBytes } from "../../tensor/index.ts";
import { cpuFeatures, saturates } from "../cpu-features.ts";
import { wantsReexec } from "../reexec.ts";
import type { Run } from "../table.ts";

/** Versions, devices and what is missing on this machine; or what becomes of an int8 model on it. */
export const run: Run<"doctor"> = async ({ args, io }) => {
  registerNode();
  if (args.model !== undefined) return (await import("./doctor-model.ts")).doctorModel(args.model, io);
  const require = createRequire(import.meta.url);
  const version = (name: string): string => {
    try {
      return (require(`${name}/package.json`) as { version: string }).version;
    } catch {
      return "not found";
    }
  };
  const { ort, threads } = await platform();
  const backends = (ort as unknown as { listSupportedBackends?(): readonly { name: string; bundled: boolean }[] })
    .listSupportedBackends?.()
    .map(({ name, bundled }) => ({ name, bundled }));
  const features = cpuFeatures();
  const koffi = ((): Koffi | undefined => {
    try {
      return loadKoffi();
    } catch {
      return undefined;
    }
  })();
  const libraries = koffi ? mpiLibraries(koffi) : [];
  const mpiText = libraries.map(({ version: of, path }) => `${of} (${path})`).join(", ") || "no library found";
  const launch = launchOf(process.env);
  const report = {
    node: process.versions.node,
    system: `${process.platform} ${process.arch}`,
    onnxruntimeNode: version("onnxruntime-node"),
    sharp: await import("sharp").then(
      ({ default: sharp }) => sharp.versions.sharp ?? "unknown",
      () => "not found",
    ),
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: { usable: availableParallelism(), threadsOfASession: threads },
    features: features ?? null,
    memory: { total: totalmem(), free: freemem() },
    devices: backends ?? null,
    allocatorTuned: !wantsReexec(),
    mpi: { koffi: koffi?.version ?? "not found", libraries, launch: launch ?? null },
  };
  io.result(report, () =>
    [
      `node              ${report.node} on ${report.system}`,
      `onnxruntime-node  ${report.onnxruntimeNode}`,
      `sharp             ${report.sharp}`,
      `processor         ${report.cpu}, ${report.cores.usable} usable cores, ${threads} threads per session`,
      `instruction sets  ${features ? features.join(" ") || "none of those that matter" : "unknown on this system"}`,
      `memory            ${fmtBytes(report.memory.free)} free of ${fmtBytes(report.memory.total)}`,
      `devices           ${backends ? backends.map((b) => `${b.name}${b.bundled ? "" : " (not bundled)"}`).join(", ") : "cpu"}`,
      `mpi               ${koffi ? mpiText : "unknown without koffi"}`,
      ...(launch ? [`launched          as rank ${launch.rank} of ${launch.size} by ${launch.launcher}`] : []),
      ...(!koffi
        ? ["missing           koffi, by which MPI is called to train on several machines; run npm install koffi"]
        : []),
      ...(saturates(features) ? ["note              without VNNI, 8-bit models can saturate and lose accuracy"] : []),
      ...(report.sharp === "not found" ? ["missing           sharp: pictures cannot be decoded; run npm install"] : []),
    ].join("\n"),
  );
  return undefined;
};
