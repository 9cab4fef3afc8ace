import { RepmlpError } from "../../errors.ts";
import { taskOfFile } from "../../inference/node/classifier.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import { reexec } from "../reexec.ts";
import type { Run } from "../table.ts";
import { viewOf } from "../tasks/index.ts";
import { weightsOptions } from "../weights.ts";

/** How well a network does on a folder of pictures, or the comparison of both forms on it. */
export const run: Run<"test"> = async (call) => {
  const { args, options } = call;
  const { mode, weights } = args;
  if (mode !== "train" && mode !== "deploy" && mode !== "check")
    throw new RepmlpError("test/mode", `test: MODE must be train, deploy or check, got "${mode}".`, "usage");
  if (options.shard !== undefined && options.output === undefined)
    throw new RepmlpError("test/shard", "test: a shard alone says little. Write it with -o for repmlp merge.", "usage");
  const code = await reexec();
  if (code !== undefined) process.exit(code);
  registerNode();
  const { kind } = await taskOfFile(weights, weightsOptions(options));
  return (await viewOf(kind, "test", options)).test(call);
};
