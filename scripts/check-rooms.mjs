// Checks how the files under src/ import each other. Usage: node scripts/check-rooms.mjs [folder]
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { isBuiltin } from "node:module";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** From the ground up. A room may import from lower floors only; rooms that share a floor do not know each other. */
const floors = [
  ["tensor"],
  ["onnx", "checkpoint", "distributed"],
  ["data"],
  ["graph"],
  ["runtime"],
  ["nn"],
  ["reparam"],
  ["blocks"],
  ["models"],
  ["inference"],
  ["tasks"],
  ["training"],
  ["prune", "report"],
  ["export"],
  ["convert"],
  ["quantize"],
  ["recipes"],
  ["studies"],
  ["index.ts", "node.ts", "web.ts"],
  ["cli"],
];

/** Entry points that must also work in a browser. */
const browserEntries = ["index.ts", "web.ts"];

/** Files with parts only Node has; the browser entry points must not reach them. */
const isNodeOnly = (file) => /^node\.ts$|(^|\/)node\//.test(file);

const root = resolve(process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), "..", "src"));
const offences = [];

/** Imports of every file, by path relative to the root with forward slashes. */
const files = new Map(
  readdirSync(root, { recursive: true })
    .map((path) => path.split(sep).join("/"))
    .filter((path) => path.endsWith(".ts") && !path.endsWith(".d.ts"))
    .sort()
    .map((path) => [path, importsOf(path)]),
);

checkRooms();
checkCycles();
for (const entry of browserEntries) checkBrowser(entry);

const lines = [...new Set(offences)];
for (const line of lines) console.error(line);
if (lines.length > 0) process.exitCode = 1;
else {
  const count = [...files.values()].reduce((n, imports) => n + imports.length, 0);
  console.log(`rooms: ${files.size} files, ${count} imports, all downward`);
}

function report(file, { line }, problem) {
  offences.push(`${relative(process.cwd(), join(root, file)).split(sep).join("/")}:${line}: ${problem}`);
}

/** Statements are recognised where they start a line, which the formatter guarantees; comments are blanked first. */
function importsOf(file) {
  const source = readFileSync(join(root, file), "utf8").replace(/^\s*(\/\*[\s\S]*?\*\/|\/\/.*)/gm, (comment) =>
    comment.replace(/[^\n]/g, " "),
  );
  const found = [];
  const add = (match, how) => {
    const at = match.index + match[0].length;
    found.push({ ...how, ...target(file, match.groups.from), line: source.slice(0, at).split("\n").length });
  };
  for (const match of source.matchAll(/^(?:import|export)\b(?<clause>[^;"'`]*?)\bfrom\s*["'](?<from>[^"']+)["']/gm))
    add(match, { typeOnly: /^\s*type\s+[{*\w]/.test(match.groups.clause), dynamic: false });
  for (const match of source.matchAll(/^import\s*["'](?<from>[^"']+)["']/gm))
    add(match, { typeOnly: false, dynamic: false });
  for (const match of source.matchAll(/\bimport\(\s*["'](?<from>[^"']+)["']\s*\)/g))
    add(match, { typeOnly: /typeof\s+$/.test(source.slice(0, match.index)), dynamic: true });
  return found;
}

function target(file, specifier) {
  if (!specifier.startsWith(".")) return { specifier, file: undefined };
  const path = join(root, dirname(file), specifier);
  return { specifier, file: relative(root, path).split(sep).join("/"), exists: existsSync(path) };
}

/** Floor of a file; -1 for files beside the rooms, which anyone may use; undefined for a folder without a floor. */
function floorOf(file) {
  const room = roomOf(file);
  const floor = floors.findIndex((rooms) => rooms.includes(room));
  if (floor >= 0) return floor;
  return file.includes("/") ? undefined : -1;
}

function roomOf(file) {
  return file.split("/")[0];
}

function checkRooms() {
  for (const [file, imports] of files) {
    const from = floorOf(file);
    if (from === undefined)
      report(file, { line: 1 }, `room "${roomOf(file)}" has no floor. Add it to the table in scripts/check-rooms.mjs.`);
    for (const found of imports) {
      if (found.file === undefined || from === undefined) continue;
      if (!found.exists)
        report(file, found, `"${found.specifier}" does not exist. Name the file with its .ts extension.`);
      else if (roomOf(file) !== roomOf(found.file)) checkDirection(file, from, found);
    }
  }
}

function checkDirection(file, from, found) {
  const to = floorOf(found.file);
  const [here, there] = [roomOf(file), roomOf(found.file)];
  if (found.file.startsWith("../")) {
    report(file, found, `"${found.specifier}" is outside of src. Move what is needed into a room.`);
  } else if (to === from && floors[from]?.includes(there) && file.includes("/")) {
    report(file, found, `${here} and ${there} share a floor. Move what both need to a lower room.`);
  } else if (to > from) {
    report(
      file,
      found,
      `${here} imports upward from ${there}. Move the code to ${there}, or what it needs below ${here}.`,
    );
  }
}

/** What a file needs: types too, since files that need each other's types are one thing in two places. */
function needs(file) {
  return (files.get(file) ?? []).filter((found) => found.file && files.has(found.file));
}

/** Depth-first: an import of a file that is still open closes a cycle. */
function checkCycles() {
  const state = new Map();
  const path = [];
  const visit = (file) => {
    state.set(file, "open");
    path.push(file);
    for (const found of needs(file).filter((f) => !f.dynamic)) {
      if (state.get(found.file) === "open") {
        const cycle = [...path.slice(path.indexOf(found.file)), found.file];
        report(file, found, `import cycle ${cycle.join(" -> ")}. Move the shared part to a file of its own.`);
      } else if (!state.has(found.file)) visit(found.file);
    }
    path.pop();
    state.set(file, "done");
  };
  for (const file of files.keys()) if (!state.has(file)) visit(file);
}

function checkBrowser(entry) {
  const via = new Map([[entry, undefined]]);
  for (const file of via.keys()) {
    for (const found of (files.get(file) ?? []).filter((f) => !f.typeOnly)) {
      if (found.file === undefined ? isBuiltin(found.specifier) : isNodeOnly(found.file)) {
        const what = found.file === undefined ? `"${found.specifier}"` : basename(found.file);
        report(
          file,
          found,
          `${what} is for Node only, but ${chain(via, file)} is for browsers. Move it to a node/ folder and export it from src/node.ts.`,
        );
      } else if (found.file && !via.has(found.file)) via.set(found.file, file);
    }
  }
}

/** How an entry point reaches a file: `index.ts -> data/index.ts`. */
function chain(via, file) {
  const steps = [];
  for (let at = file; at !== undefined; at = via.get(at)) steps.unshift(at);
  return steps.join(" -> ");
}
