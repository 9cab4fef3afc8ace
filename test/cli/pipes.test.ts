import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { createModel, openCheckpointFile, saveCheckpointFile } from "../../src/node.ts";
import { withRandomState } from "../reparam/support.ts";
import { main, type Outcome, repmlp, tempFolder } from "./harness.ts";

const folder = tempFolder();
const at = (name: string): string => join(folder, name);
const training = at("train.pth");

beforeAll(async () => {
  await saveCheckpointFile(training, withRandomState(createModel("RepMLP-Mixer-28")).stateDict());
});

/** A shell command in which `$repmlp` is the program. */
function shell(command: string): Promise<Outcome> {
  const env = { ...process.env, repmlp: `${process.execPath} ${main}`, training };
  const child = spawn("bash", ["-c", command], { cwd: folder, env });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk) => (stdout += chunk));
  child.stderr.on("data", (chunk) => (stderr += chunk));
  return new Promise((resolve) => child.on("close", (code) => resolve({ code, stdout, stderr })));
}

describe.skipIf(process.platform === "win32")("checkpoints that are no files", () => {
  test.for([
    { what: "a pipe as standard input", command: `cat $training | $repmlp convert /dev/stdin pipe.pth --no-verify` },
    { what: "a file as standard input", command: `$repmlp convert /dev/stdin file.pth --no-verify < $training` },
    { what: "process substitution", command: `$repmlp convert <(cat $training) subst.pth --no-verify` },
    {
      what: "a named pipe",
      command: `mkfifo p1 && (cat $training > p1 &) && sleep 0.3 && $repmlp convert p1 fifo.pth --no-verify`,
    },
    {
      what: "a safetensors file",
      command: `$repmlp convert $training t.safetensors --no-verify && cat $training | $repmlp verify /dev/stdin t.safetensors`,
    },
    { what: "export, which reads it twice", command: `cat $training | $repmlp export /dev/stdin x.onnx --no-check` },
  ])("$what is read", async ({ command }) => {
    const { code, stderr } = await shell(command);
    expect({ code, stderr: stderr.includes("error") ? stderr : "" }).toEqual({ code: 0, stderr: "" });
  });

  test("what comes through a pipe is what the file holds", async () => {
    await shell("cat $training | $repmlp convert /dev/stdin a.pth --no-verify");
    await repmlp(["convert", training, at("b.pth"), "--no-verify"]);
    expect(readFileSync(at("a.pth")).equals(readFileSync(at("b.pth")))).toBe(true);
    using checkpoint = await openCheckpointFile(at("a.pth"));
    expect(checkpoint.entries.size).toBe(22);
  });

  test("a named pipe that nobody writes into does not hang", async () => {
    execFileSync("mkfifo", [at("silent.pth")]);
    for (const args of [
      ["convert", at("silent.pth"), at("out.pth")],
      ["verify", at("silent.pth")],
      ["predict", at("silent.pth"), "x.png"],
      ["export", at("silent.pth"), at("out.onnx")],
    ]) {
      const { code, stderr } = await repmlp(args);
      expect(stderr).toContain("silent.pth: is a pipe, and nothing came through it. Start what writes into it first.");
      expect(code).toBe(1);
    }
  });

  test.for([
    { what: "a folder", path: "sub.pth", says: "is not a file but a folder" },
    { what: "a device", path: "/dev/zero", says: "is not a file but a device" },
    { what: "nothing", path: "none.pth", says: "there is no such file" },
  ])("$what is refused by what it is", async ({ path, says }) => {
    mkdirSync(at("sub.pth"), { recursive: true });
    for (const args of [
      ["convert", path, "out.pth"],
      ["predict", path, "x.png"],
      ["export", path, "out.onnx"],
    ]) {
      const { code, stderr } = await repmlp(args, { cwd: folder });
      expect(stderr).toContain(says);
      expect(code).toBe(1);
    }
  });
});
