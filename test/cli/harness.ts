import { spawn } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The built program. */
export const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Sends SIGINT as soon as this text is on stdout or stderr. */
  readonly interruptAt?: string;
}

/** Runs the built program as a user would. */
export function repmlp(args: readonly string[], { cwd, env, interruptAt }: RunOptions = {}): Promise<Outcome> {
  const child = spawn(process.execPath, [main, ...args], { cwd, env: { ...process.env, ...env } });
  let [stdout, stderr, interrupted] = ["", "", false];
  const watch = (): void => {
    if (interrupted || !interruptAt || !(stdout + stderr).includes(interruptAt)) return;
    interrupted = true;
    child.kill("SIGINT");
  };
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk;
    watch();
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk;
    watch();
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
}

export const tempFolder = (): string => mkdtempSync(join(tmpdir(), "repmlp-cli-"));
