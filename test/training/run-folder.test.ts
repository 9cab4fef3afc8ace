import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { isRunning, thisProcess, writeFileAtomically } from "../../src/checkpoint/node/index.ts";
import { claimRunFolder, lockName } from "../../src/training/node/run-folder.ts";

const temporary = (): string => mkdtempSync(join(tmpdir(), "repmlp-folder-"));
const source = new URL("../../src/training/node/run-folder.ts", import.meta.url).href;
const typescript = ["--import", "tsx", "--input-type=module", "-e"];
const results = ["last.safetensors", "train.pth"];
const claim = (folder: string, options: { resume?: boolean; overwrite?: boolean } = {}) =>
  claimRunFolder(folder, { results, ...options });

/** A process of the past. */
const gone = (): number => spawnSync(process.execPath, ["-e", ""]).pid;

const lockOf = (folder: string, holder: unknown): void =>
  writeFileSync(join(folder, lockName), typeof holder === "string" ? holder : JSON.stringify(holder));

describe("one run at a time writes to a folder", () => {
  test("a second claim is refused until the first is released; nothing else is left", () => {
    const folder = join(temporary(), "new", "run");
    const first = claim(folder);
    expect(() => claim(folder)).toThrow(`${folder}: another run writes there (process ${process.pid}, since 2`);
    expect(() => claim(folder, { overwrite: true })).toThrow("another run writes there");
    first.release();
    claim(folder).release();
    expect(readdirSync(folder)).toEqual([]);
  });

  test.for<[string, (folder: string) => unknown]>([
    ["a process that has ended", () => ({ host: hostname(), pid: gone(), started: "1", since: "2026-01-01" })],
    [
      "a process whose number another one has now",
      () => ({ host: hostname(), pid: process.pid, started: "1", since: "" }),
    ],
    ["a write that was cut off", () => '{"host":"a'],
    ["nobody", () => ""],
    ["something else", () => "[1, 2]"],
  ])("a claim is taken over from %s", ([, holder], { skip }) => {
    const folder = temporary();
    // Elsewhere the system does not say when a process started, and the number alone counts.
    if (thisProcess().started === "" && /number/.test(String(holder))) skip();
    lockOf(folder, holder(folder));
    const { release } = claim(folder);
    expect(JSON.parse(readFileSync(join(folder, lockName), "utf8"))).toMatchObject(thisProcess());
    release();
    expect(readdirSync(folder)).toEqual([]);
  });

  test.for<[string, () => object, RegExp]>([
    [
      "another machine",
      () => ({ host: "elsewhere", pid: 1, started: "1", since: "2026-01-01" }),
      /a run on elsewhere writes there \(process 1, since 2026-01-01\)\. .*--out; if that run is gone, delete .*lock\./,
    ],
    ["this process", () => ({ ...thisProcess(), since: "now" }), /another run writes there \(process \d+, since now\)/],
  ])("but not from %s", ([, holder, message]) => {
    const folder = temporary();
    lockOf(folder, holder());
    expect(() => claim(folder, { resume: true })).toThrow(message);
    expect(existsSync(join(folder, lockName))).toBe(true);
  });

  test("a living process keeps its claim, a killed one does not", async () => {
    const folder = temporary();
    const script = `
      import { claimRunFolder } from ${JSON.stringify(source)};
      claimRunFolder(process.argv[1], { results: [] });
      console.log("claimed");
      setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, [...typescript, script, folder], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await new Promise((resolve) => child.stdout.once("data", resolve));
    expect(() => claim(folder)).toThrow(`another run writes there (process ${child.pid},`);
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
    expect(existsSync(join(folder, lockName))).toBe(true);
    claim(folder).release();
  });

  test("of several that claim at once, over a lock that is left, one gets it", { timeout: 240_000 }, async () => {
    const folder = temporary();
    lockOf(folder, { host: hostname(), pid: gone(), started: "1", since: "" });
    // Whoever has it keeps it until all have answered.
    const script = `
      import { claimRunFolder } from ${JSON.stringify(source)};
      try {
        claimRunFolder(process.argv[1], { results: [] });
        console.log("claimed");
        process.stdin.resume();
      } catch (error) { console.log(error.code); }`;
    const children = [1, 2, 3].map(() => spawn(process.execPath, [...typescript, script, folder]));
    const answers = children.map(
      ({ stdout }) => new Promise<string>((resolve) => stdout.once("data", (text) => resolve(String(text).trim()))),
    );
    expect((await Promise.all(answers)).sort()).toEqual(["claimed", "run-folder/taken", "run-folder/taken"]);
    for (const { stdin } of children) stdin.end();
    await Promise.all(children.map((child) => child.exitCode ?? new Promise((resolve) => child.once("exit", resolve))));
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe("an earlier run's results", () => {
  const used = (): string => {
    const folder = temporary();
    for (const name of [...results, "mine.txt"]) writeFileSync(join(folder, name), "old");
    return folder;
  };

  test("are not written over unasked", () => {
    const folder = used();
    expect(() => claim(folder)).toThrow(
      `${folder}: holds the results of an earlier run (last.safetensors, train.pth). Go on with it by --resume, replace it by --overwrite, or choose another folder by --out.`,
    );
    expect(readdirSync(folder).sort()).toEqual(["last.safetensors", "mine.txt", "train.pth"]);
  });

  test("stay when the run is resumed; are taken away, and nothing else, when it is to be overwritten and begins", () => {
    const folder = used();
    const resumed = claim(folder, { resume: true });
    resumed.clear();
    resumed.release();
    expect(readdirSync(folder)).toHaveLength(3);
    const { clear, release } = claim(folder, { overwrite: true });
    expect(readdirSync(folder)).toHaveLength(4);
    clear();
    release();
    expect(readdirSync(folder)).toEqual(["mine.txt"]);
    expect(() => claim(folder, { resume: true, overwrite: true })).toThrow("Choose one");
  });
});

describe("temporary files", () => {
  const written = async (folder: string): Promise<string[]> => {
    await writeFileAtomically(join(folder, "a.txt"), async (sink) => {
      await sink.write(new TextEncoder().encode("whole"));
    });
    return readdirSync(folder).sort();
  };

  test("of processes that are gone are removed by the next write to the folder, others are not", async () => {
    const folder = temporary();
    const host = hostname().replace(/[^\w-]/g, "_");
    const { started } = thisProcess();
    const files = {
      dead: `.last.safetensors.${host}~${gone()}~1~0123456789ab.tmp`,
      living: `.last.safetensors.${host}~${process.pid}~${started}~0123456789ab.tmp`,
      elsewhere: `.last.safetensors.elsewhere~1~1~0123456789ab.tmp`,
      old: ".last.safetensors.0123456789ab.tmp",
      older: ".last.safetensors.ba9876543210.tmp",
      probe: ".ba9876543210.tmp",
      foreign: "notes.tmp",
    };
    for (const name of Object.values(files)) writeFileSync(join(folder, name), "half");
    // Of versions that did not name the process: left alone for a day.
    for (const name of [files.older, files.probe]) utimesSync(join(folder, name), new Date(0), new Date(0));
    expect(await written(folder)).toEqual([files.elsewhere, files.living, files.old, "a.txt", files.foreign].sort());
  });

  test("left by kill -9 in the middle of a checkpoint are gone after the next one", async () => {
    const folder = temporary();
    const script = `
      import { writeFileAtomically } from ${JSON.stringify(new URL("../../src/checkpoint/node/index.ts", import.meta.url).href)};
      await writeFileAtomically(process.argv[1] + "/a.txt", async (sink) => {
        await sink.write(new Uint8Array(1000000));
        console.log("half");
        await new Promise((resolve) => setTimeout(resolve, 60000));
      });`;
    const child = spawn(process.execPath, [...typescript, script, folder]);
    await new Promise((resolve) => child.stdout.once("data", resolve));
    const ended = new Promise((resolve) => child.once("exit", resolve));
    expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toHaveLength(1);
    child.kill("SIGKILL");
    await ended;
    expect(await written(folder)).toEqual(["a.txt"]);
  });

  test("a process is told from a later one with its number, and not known of on another machine", () => {
    expect(isRunning(thisProcess())).toBe(true);
    expect(isRunning({ ...thisProcess(), pid: gone() })).toBe(false);
    expect(isRunning({ ...thisProcess(), host: "elsewhere" })).toBeUndefined();
  });

  test("a folder that cannot be made", () => {
    const file = join(temporary(), "file");
    writeFileSync(file, "");
    expect(() => claim(join(file, "run"))).toThrow(/run: cannot be written to \(ENOTDIR\)/);
    mkdirSync(join(temporary(), "x"));
  });
});
