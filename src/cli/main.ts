#!/usr/bin/env node
/*
 * The `repmlp` program. To add a command `frob`:
 *
 *   1. table.ts: an entry `frob: command({ … })` with its summary, examples, arguments and options (spec.ts has their
 *      kinds). It must not import the library: `repmlp --help` reads this table and nothing else. Every command gets
 *      --json, --quiet and --help without asking.
 *   2. commands/frob.ts: `export const run: Run<"frob"> = async ({ args, options, io }) => { … }`. A thin call of the
 *      library. Results through `io.result(value, () => text)`, remarks through `io.note`, progress through
 *      `io.progress()`, Ctrl-C through `io.signal`. Return 1 when a check failed, throw RepmlpError when the work did.
 *      Import rooms of the library, not src/node.ts, so that only what is needed is loaded.
 *   3. here: a line in `loaders`. The compiler insists on all three.
 *
 * A command that runs a network for long starts with `reexec()` (reexec.ts).
 */
import { readFileSync } from "node:fs";
import { type Loaders, runProgram } from "./program.ts";

const loaders: Loaders = {
  convert: () => import("./commands/convert.ts"),
  demo: () => import("./commands/demo.ts"),
  experiment: () => import("./commands/experiment.ts"),
  train: () => import("./commands/train.ts"),
  trainable: () => import("./commands/trainable.ts"),
  embed: () => import("./commands/embed.ts"),
  "verify-faces": () => import("./commands/verify-faces.ts"),
  doctor: () => import("./commands/doctor.ts"),
  export: () => import("./commands/export.ts"),
  merge: () => import("./commands/merge.ts"),
  models: () => import("./commands/models.ts"),
  prune: () => import("./commands/prune.ts"),
  predict: () => import("./commands/predict.ts"),
  quantize: () => import("./commands/quantize.ts"),
  selfcheck: () => import("./commands/selfcheck.ts"),
  summary: () => import("./commands/summary.ts"),
  test: () => import("./commands/test.ts"),
  verify: () => import("./commands/verify.ts"),
};

const version = (): string =>
  (JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string }).version;

// Node 22 and newer keep compiled code from one run to the next, of what is imported from here on.
(process.getBuiltinModule("node:module") as { enableCompileCache?(): void }).enableCompileCache?.();

// A reader that goes away (`| head`) is no failure.
process.stdout.on("error", ({ code }: NodeJS.ErrnoException) => process.exit(code === "EPIPE" ? 0 : 1));

process.exitCode = await runProgram(process.argv.slice(2), loaders, version);
