import { defineConfig } from "vitest/config";
import { softwareAdapter } from "./test/browser/chromium.ts";

// Where libraries are looked for is read when a process starts, so it has to be set before those of the tests do.
Object.assign(process.env, softwareAdapter());

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: "forks",
    maxWorkers: 2,
  },
});
