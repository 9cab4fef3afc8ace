import { spawn } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { main } from "./harness.ts";

interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** Runs Node and does something with the process; it is ended by force only where it would run for ever. */
function ended(args: readonly string[], during: (pid: number) => void): Promise<Ended> {
  const child = spawn(process.execPath, args, { stdio: "ignore" });
  const patience = setTimeout(() => child.kill("SIGKILL"), 60_000);
  during(child.pid!);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code, signal) => {
      clearTimeout(patience);
      resolve({ code, signal });
    });
  });
}

describe("a signal during the start", () => {
  const reexec = new URL("../../src/cli/reexec.ts", import.meta.url).href;

  /** The signal has come, and nobody has heard it yet, when the process hands over to a second one. */
  test.for(["SIGINT", "SIGTERM"] as const)(
    "%s that comes right before the program starts again ends both",
    async (name) => {
      const script = `
      import { reexec } from ${JSON.stringify(reexec)};
      process.on("${name}", () => process.exit(99));
      if (process.env.REPMLP_REEXECED) {
        setTimeout(() => process.exit(7), 30000);
      } else {
        process.kill(process.pid, "${name}");
        const code = await reexec();
        process.exit(code ?? 0);
      }`;
      const folder = mkdtempSync(join(tmpdir(), "repmlp-signal-"));
      const file = join(folder, "start.mts");
      writeFileSync(file, script);
      const { code } = await ended(["--import", "tsx", file], () => {});
      // By default, as the second process has no handler yet, or by its own.
      expect([99, name === "SIGINT" ? 130 : 143]).toContain(code);
    },
  );

  // Every 30 ms over the start of the program, of the second process, and of training.
  const delays = Array.from({ length: 14 }, (_, i) => 30 * i);
  test("ends the demo whenever it comes", { timeout: 300_000 }, async () => {
    for (const delay of delays) {
      const out = join(mkdtempSync(join(tmpdir(), "repmlp-signal-")), "run");
      const { code, signal } = await ended([main, "demo", "--epochs", "1000", "--out", out], (pid) =>
        setTimeout(() => process.kill(pid, "SIGINT"), delay),
      );
      expect(code === 130 || signal === "SIGINT", `after ${delay} ms: exit code ${code}, signal ${signal}`).toBe(true);
    }
  });
});
