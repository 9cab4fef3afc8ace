import { resolve } from "node:path";
import { outputTolerances } from "../../inference/compare.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { runDemo } from "../../studies/node/demo.ts";
import { reexec } from "../reexec.ts";
import type { Run } from "../table.ts";
import { textTable } from "../text-table.ts";
import { showTraining } from "../training-view.ts";
import { verdictLine } from "../verdict.ts";

/** Trains, converts, verifies, exports and reports: a thin call of {@link runDemo}. */
export const run: Run<"demo"> = async ({ options, io }) => {
  const code = await reexec();
  if (code !== undefined) process.exit(code);
  registerNode();
  const { out, epochs, batchSize, lr, seed, resume, overwrite, threads } = options;
  const progress = io.progress();
  const result = await runDemo({
    folder: out,
    epochs,
    batchSize,
    lr,
    seed,
    resume,
    overwrite,
    threads,
    signal: io.signal,
    onEvent: (event) => showTraining(event, io, progress),
    onPhase: (what) => io.note(`${what} …`),
  }).finally(() => progress.stop());
  if (!result) {
    io.note(`stopped; go on with: repmlp demo --resume --out ${out}`);
    return undefined;
  }
  const { train, deploy, equivalence: e, verdict, files } = result;
  io.result({ type: "result", ...result }, () => {
    const number = (n: number): string => n.toLocaleString("en-US");
    const rows = [
      ["", "training form", "deploy form"],
      ["test accuracy", `${(100 * train.accuracy).toFixed(2)} %`, `${(100 * deploy.accuracy).toFixed(2)} %`],
      ["parameters", number(train.parameters), number(deploy.parameters)],
      ["multiply-adds / picture", number(train.macs), number(deploy.macs)],
      ["pictures / second", train.imagesPerSecond.toFixed(0), deploy.imagesPerSecond.toFixed(0)],
    ];
    return [
      "",
      textTable(rows),
      "",
      `equivalence: largest difference ${e.maxAbs.toExponential(2)} (${e.maxRel.toExponential(2)} relative), same class on ${e.top1.agree}/${e.top1.total} test pictures`,
      ...(verdict.passed ? [] : [verdictLine(verdict, outputTolerances.float32)]),
      "",
      ...Object.entries(files).map(([what, file]) => `${what.padEnd(9)} ${file}`),
      "",
      `done in ${result.seconds.toFixed(0)} s; open ${resolve(files.report)}`,
    ].join("\n");
  });
  return verdict.passed && e.top1.agree === e.top1.total ? undefined : 1;
};
