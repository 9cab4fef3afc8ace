import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildPage, bundle, temporaryFolder } from "./harness.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
/** Vite puts an empty module in place of a Node one, so that only the ids tell. */
const ofNode =
  /onnxruntime-node|__vite-browser-external|^node:|[/\\](src|dist)[/\\](\w+[/\\])?node[/\\.]|[/\\]sharp[/\\]/;

let temporary: Awaited<ReturnType<typeof temporaryFolder>>;
beforeAll(async () => {
  temporary = await temporaryFolder();
});
afterAll(() => temporary.remove());

/** Compressed sizes of a build's scripts by name without hash, in bytes. */
const sizes = (folder: string): Record<string, number> =>
  Object.fromEntries(
    readdirSync(folder)
      .filter((name) => name.endsWith(".js"))
      .map((name) => [name.replace(/-[\w-]{8}\.js$/, ""), gzipSync(readFileSync(join(folder, name))).length]),
  );

test("a bundler takes the browser's half of the package", async () => {
  const entry = "\0entry";
  const modules = await bundle({
    configFile: false,
    root,
    build: { outDir: temporary.folder, write: false, rolldownOptions: { input: "entry" } },
    plugins: [
      {
        name: "entry",
        resolveId: (id) => (id === "entry" ? entry : undefined),
        load: (id) => (id === entry ? 'import * as repmlp from "repmlp"; globalThis.repmlp = repmlp;' : undefined),
      },
    ],
  });
  expect(modules).toContain(join(root, "dist", "web.js"));
  expect(modules.some((id) => id.includes("onnxruntime-web"))).toBe(true);
  expect(modules.filter((id) => ofNode.test(id))).toEqual([]);
}, 60_000);

test("the page needs nothing of Node and loads little before the runtime", async () => {
  const modules = await buildPage(temporary.folder);
  expect(modules.some((id) => id.endsWith("web.ts"))).toBe(true);
  expect(modules.filter((id) => ofNode.test(id))).toEqual([]);
  const { index, worker, ...runtime } = sizes(join(temporary.folder, "assets"));
  console.log("scripts of the page, gzipped bytes:", { index, worker, ...runtime });
  expect(index).toBeLessThan(5_000);
  expect(worker).toBeLessThan(100_000);
}, 60_000);
