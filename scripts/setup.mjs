// Brings a checkout to a state in which it can run: packages as in the lock file, dist/ as in src/.
// Runs before `npm test` and `npm run demo`; prints nothing when there is nothing to do.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const oldestNode = [20, 19];
const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const at = (...path) => join(root, ...path);

// Inside node_modules, so that removing the packages also forgets what was done with them.
const stampFile = at("node_modules", ".cache", "repmlp-setup.json");

checkNode();
checkPackages();
checkBuild();

function fail(message) {
  console.error(`setup: ${message}`);
  process.exit(1);
}

function checkNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < oldestNode[0] || (major === oldestNode[0] && minor < oldestNode[1]))
    fail(
      `Node ${oldestNode.join(".")} or newer is needed, this is ${process.versions.node}. Install it from nodejs.org.`,
    );
}

function checkPackages() {
  const lock = hashOf(["package-lock.json"]);
  if (readStamp().lock === lock) return;
  if (!isInstalled()) {
    console.log("setup: installing the packages of package-lock.json (npm ci) …");
    run(...npm(), "npm ci failed. Its messages are above; run `npm ci` to try again.");
  }
  writeStamp({ lock });
}

/** Whether npm's own record of what it installed agrees with the lock file; optional packages depend on the platform. */
function isInstalled() {
  const record = at("node_modules", ".package-lock.json");
  if (!existsSync(record)) return false;
  const read = (path) => JSON.parse(readFileSync(path, "utf8")).packages ?? {};
  const [wanted, found] = [read(at("package-lock.json")), read(record)];
  const same = (path) =>
    found[path]?.version === wanted[path].version && found[path].integrity === wanted[path].integrity;
  return (
    Object.keys(wanted).every((path) => path === "" || wanted[path].optional || same(path)) &&
    Object.keys(found).every((path) => wanted[path] && same(path))
  );
}

/** The npm that runs us, else the one on the path, which on Windows is a script that only a shell can start. */
function npm() {
  const args = ["ci", "--loglevel=error", "--no-audit", "--no-fund"];
  const cli = process.env.npm_execpath ?? "";
  if (/npm-cli\.c?js$/.test(cli)) return [process.execPath, [cli, ...args], false];
  return process.platform === "win32" ? ["npm.cmd", args, true] : ["npm", args, false];
}

function checkBuild() {
  const inputs = readdirSync(at("src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(root.length + 1))
    .sort();
  const own = ["package.json", "package-lock.json", "tsconfig.json", "tsconfig.build.json", "scripts/build.mjs"];
  const build = hashOf([...own, ...inputs]);
  if (existsSync(at("dist")) && readStamp().build === build) return;
  console.log("setup: compiling src/ to dist/ …");
  run(process.execPath, [at("scripts", "build.mjs")], false, "src/ does not compile. The errors are above.");
  writeStamp({ build });
}

function run(command, args, shell, message) {
  const { status } = spawnSync(command, args, { cwd: root, stdio: "inherit", shell });
  if (status !== 0) fail(message);
}

function hashOf(paths) {
  const hash = createHash("sha256");
  for (const path of paths)
    hash
      .update(`${path}\0`)
      .update(readFileSync(at(path)))
      .update("\0");
  return hash.digest("hex");
}

function readStamp() {
  return existsSync(stampFile) ? JSON.parse(readFileSync(stampFile, "utf8")) : {};
}

function writeStamp(changes) {
  const stamp = { ...readStamp(), ...changes };
  mkdirSync(dirname(stampFile), { recursive: true });
  writeFileSync(stampFile, JSON.stringify(stamp));
}
