// Builds dist/ from src/: declarations by tsc, which also checks the types, and JavaScript in two forms.
//
// - For Node, bundles: every file that is loaded costs about a millisecond, so that what is imported together is one
//   file. `library` is what src/node.ts imports, `cli/main` the command line up to where a command is chosen; the rest
//   is loaded when it is needed.
// - For browsers, one file per module, of which the user's bundler takes what is used.
import { spawn } from "node:child_process";
import { chmodSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const at = (...path) => join(root, ...path);
const source = (...path) => at("src", ...path);

/** Packages that become part of the bundles: small ones that every start would have to find and read. */
const bundledPackages = ["commander", "valibot"];

/**
 * Short names for what only the bundle sees: a third less to compile. Lines and the names of functions and classes stay,
 * so that a stack tells where an error came from.
 */
const minify = { compress: false, mangle: { keepNames: true }, codegen: { removeWhitespace: false } };

/** A file with a character beyond Latin-1 takes twice the memory while it is read, and a tenth longer to compile. */
const ascii = {
  name: "ascii",
  generateBundle(_options, files) {
    for (const chunk of Object.values(files).filter(({ type }) => type === "chunk"))
      chunk.code = chunk.code.replace(
        /[^\0-\x7f]/g,
        (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
      );
  },
};

/** What library and command line share. */
const base = /[\\/]src[\\/](errors|cli[\\/]failure)\.ts$/;

rmSync(at("dist"), { recursive: true, force: true });
const [types, code] = await Promise.allSettled([declarations(), forNode().then(forBrowsers)]);
if (types.value !== 0 || code.reason) {
  // tsc has said what it found, and finds what the bundler cannot read, too.
  if (types.value === 0 || types.reason) console.error(types.reason ?? code.reason);
  rmSync(at("dist"), { recursive: true, force: true });
  process.exitCode = 1;
}

function declarations() {
  const tsc = at("node_modules", "typescript", "bin", "tsc");
  const child = spawn(process.execPath, [tsc, "-p", "tsconfig.build.json"], { cwd: root, stdio: "inherit" });
  return new Promise((resolve, reject) => child.on("error", reject).on("exit", resolve));
}

async function forNode() {
  const node = source("node.ts");
  const input = {
    "node/index": node,
    "node/decode-worker": source("data", "node", "decode-worker.ts"),
    "cli/main": source("cli", "main.ts"),
  };
  let library;
  const groups = [
    { name: "base", test: base },
    {
      name: (id, context) => {
        library ??= staticImports(node, context);
        return library.has(id) ? "library" : null;
      },
      debugName: "library",
    },
  ];
  const { output } = await bundle(input, bundledPackages, {
    codeSplitting: { groups },
    comments: false,
    keepNames: true,
    minify,
    plugins: [ascii],
    // All at the depth of their sources, which find recipes/, data/ and package.json by relative paths.
    chunkFileNames: ({ name }) => `${name === "library" || name === "base" ? "node" : "cli"}/[name].js`,
  });
  writeFileSync(at("dist", "THIRD-PARTY-LICENSES.txt"), licences(output));
  // npm makes it so for those who install the package; whoever links to it or calls it by its path needs it too.
  chmodSync(at("dist", "cli", "main.js"), 0o755);
}

function forBrowsers() {
  return bundle({ web: source("web.ts") }, [], { preserveModules: true, preserveModulesRoot: source() });
}

function bundle(input, noExternal, output) {
  return build({
    configFile: false,
    publicDir: false,
    root,
    logLevel: "warn",
    ssr: { noExternal },
    build: {
      ssr: true,
      outDir: "dist",
      emptyOutDir: false,
      target: "es2023",
      sourcemap: true,
      minify: false,
      rolldownOptions: {
        input,
        output: { entryFileNames: "[name].js", sourcemapExcludeSources: true, ...output },
        checks: { ineffectiveDynamicImport: false },
      },
    },
  });
}

/** A module and all that it imports statically, however far away. */
function staticImports(entry, context) {
  const found = new Set([entry]);
  for (const id of found) for (const imported of context.getModuleInfo(id)?.importedIds ?? []) found.add(imported);
  return found;
}

/** Names and licence texts of the packages that are part of the bundles. */
function licences(output) {
  const folders = output
    .flatMap(({ moduleIds = [] }) => moduleIds)
    .flatMap((id) => /^.*[\\/]node_modules[\\/](?:@[^\\/]+[\\/])?[^\\/]+/.exec(id)?.[0] ?? []);
  return [...new Set(folders)]
    .sort()
    .map((folder) => {
      const { name, version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
      const text = readdirSync(folder).find((file) => /^licen[cs]e/i.test(file));
      if (!text) throw new Error(`build: ${name} has no licence file to pass on. Do not bundle it.`);
      return `${name} ${version}\n\n${readFileSync(join(folder, text), "utf8").trim()}\n`;
    })
    .join(`\n${"-".repeat(80)}\n\n`);
}
