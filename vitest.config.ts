import { defineConfig } from "vitest/config";
import { softwareAdapter } from "./test/browser/chromium.ts";

// Where libraries are looked for is read when a process starts, so it has to be set before those of the tests do.
Object.assign(process.env, softwareAdapter());

// Two files at once on two cores: threads of one would only wait for those of the other.
process.env.OMP_NUM_THREADS ??= "1";

const tests = {
  testTimeout: 60_000,
  hookTimeout: 60_000,
  pool: "forks",
} as const;

/** Their values may be too small for a float32 to hold as a normal number, which ONNX Runtime once loaded turns to zero. */
const exactBits = ["test/{checkpoint,onnx,tensor}/**/*.test.ts"];

export default defineConfig({
  test: {
    maxWorkers: 2,
    projects: [
      { test: { ...tests, name: "bits", include: exactBits } },
      // A file uses what those before it in the same process have loaded: for most files that is the larger part of their time.
      { test: { ...tests, name: "all", include: ["test/**/*.test.ts"], exclude: exactBits, isolate: false } },
    ],
  },
});
