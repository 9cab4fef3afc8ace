import { afterAll, beforeAll, expect, test } from "vitest";
import { run as prune } from "../../src/cli/commands/prune.ts";
import { run as summary } from "../../src/cli/commands/summary.ts";
import { run as verify } from "../../src/cli/commands/verify.ts";
import { type Loaders, runProgram } from "../../src/cli/program.ts";
import { type PrunableFiles, prunableFiles } from "../prune/files.ts";

let files: PrunableFiles;
const at = (name: string): string => files.at(name);

async function repmlp(...args: string[]): Promise<{ code: number | undefined; stdout: string; stderr: string }> {
  const text = { stdout: "", stderr: "" };
  const stream = (name: keyof typeof text) => ({
    write: (part: string) => {
      text[name] += part;
      return true;
    },
  });
  const loaders = {
    prune: async () => ({ run: prune }),
    summary: async () => ({ run: summary }),
    verify: async () => ({ run: verify }),
  };
  const streams = { stdout: stream("stdout"), stderr: stream("stderr") };
  const code = await runProgram(args, loaders as never as Loaders, () => "0", streams as never);
  return { code, ...text };
}

beforeAll(async () => {
  files = await prunableFiles("Cifar-quick-RepVGG");
});
afterAll(() => files.remove());

test("a network with branches: pruned, shown beside the whole one, merged and compared", async () => {
  const cut = await repmlp("prune", at("whole.safetensors"), at("half.safetensors"), "--flops", "0.5");
  expect(cut).toMatchObject({ code: 0 });
  expect(cut.stdout).toContain("multiply-adds");
  const shown = await repmlp("summary", at("half.safetensors"), "--json");
  const { before, after } = JSON.parse(shown.stdout);
  expect(after[0].macs).toBeLessThanOrEqual(0.5 * before[0].macs);
  expect(after[0].parameters).toBeLessThan(before[0].parameters);
  expect((await repmlp("summary", at("half.safetensors"))).stdout).toContain("in the file");
  // Its merged form is the same network; the whole one is not.
  expect(await repmlp("verify", at("half.safetensors"))).toMatchObject({ code: 0 });
  const other = await repmlp("verify", at("whole.safetensors"), at("half.safetensors"));
  expect(other).toMatchObject({ code: 1 });
  expect(other.stdout).toContain("outputs alone are compared");
  expect((await repmlp("prune", at("half.safetensors"), at("third.safetensors"))).stderr).toContain(
    "has been pruned before",
  );
});

test.for<[string[], string]>([
  [["--method", "aofp"], "aofp trains on a data set"],
  [[], "say which file to write"],
  [["--init", "whole.safetensors", "--set", "lasso"], "--set lasso: must be a name and a value, such as lasso=0.01"],
  [["--init", "whole.safetensors", "--method", "l1", "--set", "lasso=1"], 'l1 has no setting "lasso"'],
  [["--init", "whole.safetensors", "--mean", "0.5"], "--mean and --std belong together"],
])("prune %o is refused", async ([args, message]) => {
  const { code, stderr } = await repmlp("prune", at("whole.safetensors"), ...args);
  expect(code).toBe(2);
  expect(stderr).toContain(message);
});
