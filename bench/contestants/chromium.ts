/** The contestant that is a page of headless Chromium: its questions are passed on to `bench/web/page.ts`. */
import { cpSync } from "node:fs";
import { join } from "node:path";
import { bundle, launch, serve as site, temporaryFolder } from "../../test/browser/harness.ts";
import type { PageTasks } from "../web/page.ts";
import { serve } from "./serve.ts";

type Window = { readonly benchmark: PageTasks };

const { folder, remove } = await temporaryFolder();
await bundle({
  configFile: false,
  root: join(import.meta.dirname, "..", "web"),
  base: "./",
  build: { outDir: folder, emptyOutDir: true, target: "es2022" },
});
// The backend of TensorFlow.js looks for these by name.
const tfjs = join(import.meta.dirname, "..", "..", "node_modules", "@tensorflow", "tfjs-backend-wasm", "dist");
for (const kind of ["", "-simd", "-threaded-simd"])
  cpSync(join(tfjs, `tfjs-backend-wasm${kind}.wasm`), join(folder, "tfjs", `tfjs-backend-wasm${kind}.wasm`));
const { url, close } = await site(folder);
const browser = await launch();
const page = await browser.newPage();
page.setDefaultTimeout(0);
await page.goto(url);
await page.waitForFunction(() => "benchmark" in globalThis);

await serve({
  prepare: (task, options) =>
    page.evaluate(([name, given]) => (globalThis as unknown as Window).benchmark.prepare(name, given), [
      task,
      { ...(options as object), wasmFolder: `${url}tfjs/` },
    ] as const),
  run: (times) => page.evaluate((n) => (globalThis as unknown as Window).benchmark.run(n), times),
  close: async () => {
    await browser.close();
    await close();
    await remove();
  },
});
