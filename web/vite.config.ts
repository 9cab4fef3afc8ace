import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

/** Threads of WebAssembly need a cross-origin isolated page. */
const headers = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

export default defineConfig({
  root: fileURLToPath(new URL(".", import.meta.url)),
  base: "./",
  build: { outDir: "dist", emptyOutDir: true, target: "es2022" },
  worker: { format: "es" },
  // The runtime finds its WebAssembly files beside itself; pre-bundling would move it away from them.
  optimizeDeps: { exclude: ["onnxruntime-web"] },
  server: { headers },
  preview: { headers },
});
