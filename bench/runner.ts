import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { tunedEnvironment } from "../src/cli/reexec.ts";
import type { Child, Contestant, Program } from "./case.ts";
import type { Timed } from "./contestants/task.ts";

/** A contestant that is ready to take its turns. */
export interface Runner {
  /** Gets ready; what it says of itself. */
  prepare(): Promise<Readonly<Record<string, number>>>;
  /** Some runs, one after the other. */
  run(times: number): Promise<Timed>;
  /** Largest resident size so far in MB, where the system tells. */
  peakMb(): Promise<number | undefined>;
  close(): Promise<void>;
}

const here = import.meta.dirname;

export function runnerOf({ name, does }: Contestant): Runner {
  return does.kind === "program" ? new ProgramRunner(name, does) : new ChildRunner(name, does);
}

function commandOf(child: Child): [command: string, args: string[]] {
  if (child.runtime === "python") return [child.program, ["-u", join(here, "pytorch", "contestant.py")]];
  const file = child.runtime === "node" ? "node.ts" : "chromium.ts";
  return [process.execPath, ["--expose-gc", "--import", "tsx", join(here, "contestants", file)]];
}

/** A contestant that hangs is given up after this. */
const patienceMs = 600_000;

/** One line of JSON per question and answer, over standard input and output; errors come as an answer. */
class ChildRunner implements Runner {
  private readonly process: ChildProcessWithoutNullStreams;
  private readonly lines: Interface;
  private readonly ended: Promise<never>;
  private said = "";

  constructor(
    private readonly name: string,
    private readonly spec: Child,
  ) {
    const [command, args] = commandOf(spec);
    // The allocator settings that our command line gives itself, for everyone.
    this.process = spawn(command, args, { env: tunedEnvironment(), stdio: ["pipe", "pipe", "pipe"] });
    this.process.stderr.on("data", (chunk: Buffer) => {
      this.said = (this.said + chunk).slice(-4000);
    });
    this.lines = createInterface({ input: this.process.stdout });
    this.ended = new Promise((_, reject) => {
      this.process.on("error", reject);
      this.process.on("close", (code, signal) =>
        reject(new Error(`${name} ended with ${code ?? signal}: ${this.said.trim() || "no message"}`)),
      );
    });
    this.ended.catch(() => undefined);
  }

  private async ask<T>(question: object): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const answer = new Promise<string>((resolve) => this.lines.once("line", resolve));
    this.process.stdin.write(`${JSON.stringify(question)}\n`);
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${this.name}: no answer in ${patienceMs / 1000} s`)), patienceMs);
    });
    const line = await Promise.race([answer, this.ended, late]).finally(() => clearTimeout(timer));
    const said = JSON.parse(line) as { error?: string; result: T };
    if (said.error !== undefined) throw new Error(`${this.name}: ${said.error}`);
    return said.result;
  }

  prepare(): Promise<Readonly<Record<string, number>>> {
    return this.ask({ do: "prepare", task: this.spec.task, options: this.spec.options });
  }

  run(times: number): Promise<Timed> {
    return this.ask({ do: "run", times });
  }

  async peakMb(): Promise<number | undefined> {
    return (await this.ask<{ peakMb?: number }>({ do: "memory" })).peakMb;
  }

  async close(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const gone = new Promise((resolve) => this.process.once("close", resolve));
    this.process.stdin.end();
    const timer = setTimeout(() => this.process.kill("SIGKILL"), 10_000);
    await gone;
    clearTimeout(timer);
  }
}

/** A process per run, with nothing left to be written by the one before. */
class ProgramRunner implements Runner {
  private peak: number | undefined;

  constructor(
    private readonly name: string,
    private readonly program: Program,
  ) {}

  async prepare(): Promise<Readonly<Record<string, number>>> {
    return {};
  }

  async run(times: number): Promise<Timed> {
    const seconds: number[] = [];
    for (let i = 0; i < times; i++) seconds.push(await this.once());
    return { seconds, rates: {} };
  }

  private async once(): Promise<number> {
    const { command, args, writes } = this.program;
    if (writes) {
      rmSync(writes, { force: true });
      spawnSync("sync");
    }
    const start = performance.now();
    const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"], cwd: join(here, "..") });
    // The high-water mark only grows, so the last reading is the peak. Short programs are not disturbed by looking.
    const timer = setInterval(() => this.look(child.pid), writes ? 5 : 1000);
    let said = "";
    child.stderr.on("data", (chunk: Buffer) => {
      said += chunk;
    });
    let seconds = 0;
    child.on("exit", () => {
      seconds = (performance.now() - start) / 1000;
    });
    const code = await new Promise((resolve, reject) => void child.on("close", resolve).on("error", reject)).finally(
      () => clearInterval(timer),
    );
    if (code !== 0) throw new Error(`${this.name} ended with ${code}: ${said.trim()}`);
    if (writes && !existsSync(writes)) throw new Error(`${this.name} did not write ${writes}`);
    return seconds;
  }

  private look(pid: number | undefined): void {
    const peak = highWaterMark(`/proc/${pid}/status`);
    if (peak !== undefined) this.peak = Math.max(this.peak ?? 0, peak);
  }

  async peakMb(): Promise<number | undefined> {
    return this.peak;
  }

  async close(): Promise<void> {}
}

/** Largest resident size of a process so far in MB, from its status file; Linux only. */
export function highWaterMark(statusFile: string): number | undefined {
  try {
    const [, kb] = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync(statusFile, "utf8")) ?? [];
    return kb === undefined ? undefined : Number(kb) / 1024;
  } catch {
    return undefined;
  }
}
