import { spawn } from "node:child_process";
import { PassThrough } from "node:stream";
import { Option } from "commander";
import { describe, expect, test } from "vitest";
import { failureOf } from "../../src/cli/failure.ts";
import { createIo } from "../../src/cli/io.ts";
import { duration, openProgress, progressLine } from "../../src/cli/progress.ts";
import { tuneAllocator, tunedEnvironment, wantsReexec } from "../../src/cli/reexec.ts";
import type { CommandSpec } from "../../src/cli/spec.ts";
import { commands } from "../../src/cli/table.ts";
import { grouped, textTable } from "../../src/cli/text-table.ts";
import { stepLine } from "../../src/cli/training-view.ts";
import type { Koffi } from "../../src/distributed/node/index.ts";
import { RepmlpError } from "../../src/errors.ts";
import { main, repmlp } from "./harness.ts";

describe("the table of commands", () => {
  test.for(Object.entries<CommandSpec>(commands))("%s: options are named as commander names them", ([name, spec]) => {
    for (const [key, { flags }] of Object.entries(spec.options)) expect(new Option(flags).attributeName()).toBe(key);
    for (const [line] of spec.examples) expect(line).toMatch(new RegExp(`^repmlp ${name}\\b`));
  });
});

describe("manners", () => {
  test("no command: help on stderr, exit code 2", async () => {
    const { code, stdout, stderr } = await repmlp([]);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain("Usage: repmlp");
  });

  test("the version is the package's", async () => {
    const { stdout } = await repmlp(["--version"]);
    expect(stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test("errors of the command line have codes", async () => {
    const { code, stdout, stderr } = await repmlp(["convert", "--json", "--frob"]);
    expect(code).toBe(2);
    expect(JSON.parse(stdout)).toEqual({
      error: { code: "cli/unknown-option", message: "unknown option '--frob'. See repmlp convert --help." },
    });
    expect(stderr).toBe("error: unknown option '--frob'. See repmlp convert --help.\n");
  });

  test("REPMLP_DEBUG=1 shows where an error comes from", async () => {
    const { stderr } = await repmlp(["convert", "none.pth", "out.pth"], { env: { REPMLP_DEBUG: "1" } });
    expect(stderr).toMatch(/^error: none\.pth.*\n.*RepmlpError/);
    expect(stderr).toContain("caused by: Error: ENOENT");
  });

  test("a reader that goes away is no failure", async () => {
    const shell = spawn("sh", ["-c", `"${process.execPath}" "${main}" models | head -n 1`]);
    let [stdout, stderr] = ["", ""];
    shell.stdout.on("data", (chunk: Buffer) => (stdout += chunk));
    shell.stderr.on("data", (chunk: Buffer) => (stderr += chunk));
    await new Promise((resolve) => shell.on("close", resolve));
    expect(stdout).toMatch(/^model/);
    expect(stderr).toBe("");
  });
});

describe("failures in words", () => {
  test.for([
    [
      new RepmlpError("a/b", "a: wrong. Do this.", "usage"),
      { exitCode: 2, code: "a/b", message: "a: wrong. Do this." },
    ],
    [new RepmlpError("a/b", "two\n  lines", "file"), { exitCode: 1, code: "a/b", message: "two lines" }],
    [
      Object.assign(new Error("EIO: i/o error, read"), { code: "EIO", syscall: "read" }),
      { exitCode: 1, code: "system/EIO", message: "EIO: i/o error, read" },
    ],
    [
      new TypeError("x is not a function"),
      {
        exitCode: 1,
        code: "internal",
        message: "internal: x is not a function. This is a bug: please report it with the output of REPMLP_DEBUG=1.",
      },
    ],
  ] as const)("%s", ([error, failure]) => {
    expect(failureOf(error)).toEqual(failure);
  });
});

describe("progress", () => {
  const stream = (): { readonly stream: NodeJS.WriteStream; readonly text: () => string } => {
    const through = new PassThrough();
    return { stream: through as unknown as NodeJS.WriteStream, text: () => String(through.read() ?? "") };
  };

  test("no terminal: a plain line now and then", async () => {
    const out = stream();
    const view = openProgress(out.stream, { lineEvery: 0 });
    view.update({ done: 12, total: 160, label: "convert", rate: 40, secondsLeft: 3.7 });
    view.stop();
    view.update({ done: 13, total: 160 });
    expect(out.text()).toBe("convert: 12/160 (7 %), 40/s, 4 s left\n");
  });

  test("another label, or another pass, is measured from its own beginning", async () => {
    const out = stream();
    const view = openProgress(out.stream, { lineEvery: 0 });
    view.update({ done: 64, total: 64, label: "calibrate" });
    await new Promise((resolve) => setTimeout(resolve, 20));
    for (const [done, label] of [
      [1, "biases"],
      [9, "biases"],
      [2, "biases"],
    ] as const)
      view.update({ done, total: 9, label });
    view.stop();
    const [, first, , again] = out.text().split("\n");
    expect([first, again]).toEqual(["biases: 1/9 (11 %), 0.0/s, ? left", "biases: 2/9 (22 %), 0.0/s, ? left"]);
  });

  test("short work prints nothing; nor does anything when silent", async () => {
    for (const options of [{}, { silent: true, lineEvery: 0 }]) {
      const out = stream();
      const view = openProgress(out.stream, options);
      view.update({ done: 1, total: 2 });
      view.stop();
      expect(out.text()).toBe("");
    }
  });

  const terminal = (columns: number) => {
    const out = stream();
    return { ...out, stream: Object.assign(out.stream, { isTTY: true, columns, hasColors: () => false }) };
  };

  test("a terminal: one line, written over again, with a bar where there is room, and taken away", () => {
    const out = terminal(62);
    const view = openProgress(out.stream);
    view.update({ done: 5, total: 10, label: "convert", rate: 40, secondsLeft: 3.7 });
    expect(out.text()).toBe(`\r${"█".repeat(12)}${"░".repeat(12)} convert: 5/10 (50 %), 40/s, 4 s left\x1b[K`);
    // Shown at once where it is done, else not so soon again.
    view.update({ done: 6, total: 10, label: "convert" });
    view.update({ done: 10, total: 10, line: "x".repeat(70) });
    expect(out.text()).toBe(`\r${"x".repeat(61)}\x1b[K`);
    view.stop();
    view.update({ done: 10, total: 10 });
    view.stop();
    expect(out.text()).toBe("\r\x1b[K");
  });

  test("a terminal: what is printed takes the place of the live line", () => {
    const out = terminal(60);
    const io = createIo(
      { stdout: out.stream, stderr: out.stream },
      { json: false, quiet: false, advice: (text) => text },
      () => {
        throw new Error("not asked for");
      },
    );
    const view = io.progress();
    view.update({ done: 1, total: 1, line: "live" });
    out.text();
    io.result({}, () => "epoch 1");
    expect(out.text()).toBe("\r\x1b[Kepoch 1\n");
    io.note("so far");
    expect(out.text()).toBe("so far\n");
  });

  test("a training step as a line: epoch, step, loss, rate, speed, time left", () => {
    const step = { type: "step", epoch: 3, epochs: 30, step: 120, steps: 1200, loss: 0.51234, top1: 0.8 } as const;
    expect(stepLine({ ...step, lr: 0.0975528, imagesPerSecond: 1234.5, secondsLeft: 125 })).toBe(
      "epoch 3/30  step 120/1200  loss 0.5123  lr 0.0976  1235 images/s  2 min 5 s left",
    );
  });

  test.for([
    [4.2, "4 s"],
    [200, "3 min 20 s"],
    [7500, "2 h 5 min"],
    [Number.POSITIVE_INFINITY, "?"],
  ] as const)("%d seconds are %s", ([seconds, words]) => {
    expect(duration(seconds)).toBe(words);
  });

  test("an empty task is done", () => {
    expect(progressLine({ label: "", done: 0, total: 0, rate: 0.5, secondsLeft: 0 })).toBe(
      "0/0 (100 %), 0.50/s, 0 s left",
    );
  });
});

describe("starting again with other allocator settings", () => {
  test("only once, only where it helps, and not when told so", () => {
    expect(wantsReexec({ REPMLP_NO_REEXEC: "1" })).toBe(false);
    expect(wantsReexec({ GLIBC_TUNABLES: "glibc.malloc.hugetlb=0" })).toBe(false);
    expect(wantsReexec(tunedEnvironment({}))).toBe(false);
  });

  test("under a launcher by calls in place of a start, under the same conditions", () => {
    const calls: unknown[][] = [];
    const call = Object.assign((...args: readonly unknown[]) => calls.push([...args]) && 1, { async: () => {} });
    const library = { func: () => call, symbol: () => undefined };
    const koffi: Koffi = { version: "", load: () => library, config: () => ({ async_stack_size: 0 }) };
    for (const env of [{ REPMLP_NO_REEXEC: "1" }, tunedEnvironment({})]) expect(tuneAllocator(koffi, env)).toBe(false);
    expect(calls).toEqual([]);
    if (!wantsReexec({})) return;
    expect(tuneAllocator(koffi, {})).toBe(true);
    // M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h.
    expect(calls).toEqual([
      [-1, 2 ** 31 - 1],
      [-4, 0],
    ]);
  });

  test("keeps tunables of the user's", () => {
    const { GLIBC_TUNABLES } = tunedEnvironment({ GLIBC_TUNABLES: "glibc.cpu.x86_shstk=off" });
    expect(GLIBC_TUNABLES).toMatch(/^glibc\.cpu\.x86_shstk=off:glibc\.malloc\.hugetlb=1:/);
  });
});

describe("tables", () => {
  test("columns line up; lines end without spaces", () => {
    expect(
      textTable(
        [
          ["name", "count", "note"],
          ["a", "1,000", "x"],
          ["bcdef", "2", ""],
        ],
        "lrl",
      ),
    ).toBe("name   count  note\na      1,000  x\nbcdef      2");
  });

  test.for([
    [0, "0"],
    [999, "999"],
    [1000, "1,000"],
    [87_038_248, "87,038,248"],
  ] as const)("%d is %s", ([n, text]) => {
    expect(grouped(n)).toBe(text);
  });
});
