// Installs the package as npm would publish it into an empty folder, from the registry, and uses it there: the command
// line from node_modules/.bin, an import in Node, a build with Vite. Says what the installation takes.
// Usage: node scripts/check-package.mjs
import { spawnSync } from "node:child_process";
import { lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const { peerDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const folder = mkdtempSync(join(tmpdir(), "repmlp-install-"));
const modules = join(folder, "node_modules");

try {
  const archive = basename(
    run("npm", ["pack", "--ignore-scripts", "--pack-destination", folder], root).trim().split("\n").at(-1),
  );
  writeFileSync(join(folder, "package.json"), '{ "type": "module", "private": true }');
  install(`./${archive}`);
  const sizes = Object.entries(sizeByPackage()).sort((a, b) => b[1] - a[1]);
  const total = sizes.reduce((sum, [, bytes]) => sum + bytes, 0);
  console.log(
    `installed for Node: ${mb(total)} MB (${sizes
      .slice(0, 4)
      .map(([name, bytes]) => `${name} ${mb(bytes)}`)
      .join(", ")})`,
  );
  expect("no runtime for browsers", !sizes.some(([name]) => name === "onnxruntime-web"));

  const cli = join(modules, ".bin", "repmlp");
  expect("repmlp --version", /^\d+\.\d+\.\d+\n$/.test(run(cli, ["--version"])));
  expect("repmlp selfcheck", JSON.parse(run(cli, ["selfcheck", "--json"])).passed === true);
  const code =
    'import { RepMLP, openCheckpointFile } from "repmlp"; console.log(RepMLP.name, typeof openCheckpointFile);';
  expect("import in Node", run(process.execPath, ["--input-type=module", "--eval", code]) === "RepMLP function\n");

  install(...Object.entries(peerDependencies).map(([name, version]) => `${name}@${version}`));
  writeFileSync(join(folder, "page.js"), 'import { compile } from "repmlp"; globalThis.compile = compile;\n');
  const built = await build({
    ...{ root: folder, configFile: false, logLevel: "error" },
    build: { write: false, rolldownOptions: { input: join(folder, "page.js") } },
  });
  const names = [built].flat().flatMap(({ output }) => output.map(({ fileName }) => fileName));
  expect(
    "a page built with Vite brings the runtime along",
    names.some((name) => /ort-wasm.*\.wasm$/.test(name)),
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}

function install(...what) {
  run("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", ...what]);
}

function run(command, args, cwd = folder) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd, encoding: "utf8", maxBuffer: 2 ** 26 });
  if (status !== 0) {
    console.error(`${basename(command)} ${args.join(" ")}: ${error?.message ?? `exit code ${status}\n${stderr}`}`);
    rmSync(folder, { recursive: true, force: true });
    process.exit(1);
  }
  return stdout;
}

function expect(what, holds) {
  console.log(`${holds ? "ok    " : "FAILED"} ${what}`);
  if (!holds) process.exitCode = 1;
}

/** Bytes of files by package, scoped ones by their scope. */
function sizeByPackage() {
  const sizeOf = (path) => {
    const found = lstatSync(path);
    if (!found.isDirectory()) return found.size;
    return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0);
  };
  return Object.fromEntries(readdirSync(modules).map((name) => [name, sizeOf(join(modules, name))]));
}

function mb(bytes) {
  return Math.round(bytes / 1e6);
}
