import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { type Browser, chromium } from "playwright-core";
import { build, type InlineConfig, type Plugin } from "vite";
import { chromiumPath } from "./chromium.ts";

export { chromiumPath } from "./chromium.ts";

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/** Builds with Vite and returns the ids of all modules that went in, workers included. */
export async function bundle(config: InlineConfig): Promise<readonly string[]> {
  const modules: string[] = [];
  const recorder = (): Plugin => ({ name: "record-modules", moduleParsed: ({ id }) => void modules.push(id) });
  await build({
    logLevel: "error",
    ...config,
    plugins: [recorder(), ...(config.plugins ?? [])],
    worker: { format: "es", plugins: () => [recorder()] },
  });
  return modules;
}

/** Builds the page into a folder. */
export const buildPage = (folder: string): Promise<readonly string[]> =>
  bundle({ configFile: at("../../web/vite.config.ts"), build: { outDir: folder, emptyOutDir: true } });

/** Builds `probe.ts`, whose functions tests call in a page, as `probe/probe.js`. */
export const buildProbe = (folder: string): Promise<readonly string[]> =>
  bundle({
    configFile: false,
    root: at("."),
    base: "./",
    // Not a library build, which would put the WebAssembly files into the script.
    build: {
      outDir: join(folder, "probe"),
      target: "es2022",
      rolldownOptions: {
        input: at("./probe.ts"),
        output: { entryFileNames: "probe.js" },
      },
    },
  });

const types: Readonly<Record<string, string>> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".css": "text/css",
  ".wasm": "application/wasm",
};

export interface Site {
  readonly url: string;
  close(): Promise<void>;
}

/** Serves a folder as a cross-origin isolated site on this machine. */
export async function serve(folder: string): Promise<Site> {
  const server = createServer((request, response) => {
    const path = normalize(new URL(request.url ?? "/", "http://localhost").pathname).replace(/^([/\\])+/, "");
    const file = join(folder, path || "index.html");
    readFile(file).then(
      (body) => {
        response.writeHead(200, {
          "Content-Type": types[extname(file)] ?? "application/octet-stream",
          "Cross-Origin-Opener-Policy": "same-origin",
          "Cross-Origin-Embedder-Policy": "require-corp",
          "Cross-Origin-Resource-Policy": "same-origin",
        });
        response.end(body);
      },
      () => {
        response.writeHead(404);
        response.end();
      },
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** A folder for one test, to be removed by its `remove`. */
export async function temporaryFolder(): Promise<{ readonly folder: string; remove(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), "repmlp-web-"));
  return { folder, remove: () => rm(folder, { recursive: true, force: true }) };
}

/** Builds the page and the probe, and serves both. */
export async function buildAndServe(): Promise<Site> {
  const { folder, remove } = await temporaryFolder();
  await buildPage(folder);
  await buildProbe(folder);
  const site = await serve(folder);
  return {
    ...site,
    close: async () => {
      await site.close();
      await remove();
    },
  };
}

/** Flags under which headless Chromium offers WebGPU on its software adapter. */
const webgpuFlags = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-unsafe-swiftshader"];

export const launch = (): Promise<Browser> =>
  chromium.launch({
    executablePath: chromiumPath,
    args: ["--headless=new", "--no-sandbox", ...webgpuFlags],
  });
