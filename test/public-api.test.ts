import { readFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { describe, expect, test } from "vitest";

/*
 * What the package offers is chosen name by name. The lists in fixtures/public-api say what that is today, so that a name
 * that comes, goes or changes from a value into a type shows in the change that does it (`vitest run -u` writes them anew).
 */

const root = join(import.meta.dirname, "..");
const entries = ["index", "node", "web"] as const;
const fileOf = (entry: string): string => join(root, "src", `${entry}.ts`);

const { config } = ts.readConfigFile(join(root, "tsconfig.json"), ts.sys.readFile);
const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, root);
const program = ts.createProgram(entries.map(fileOf), options);
const checker = program.getTypeChecker();

/** Exported names, sorted, types marked as such. */
function namesOf(entry: string): string[] {
  const symbol = checker.getSymbolAtLocation(program.getSourceFile(fileOf(entry))!)!;
  return checker
    .getExportsOfModule(symbol)
    .map((s) => {
      const target = s.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(s) : s;
      const typeOnly = s.declarations?.some(
        (d) => ts.isExportSpecifier(d) && (d.isTypeOnly || d.parent.parent.isTypeOnly),
      );
      return typeOnly || !(target.flags & ts.SymbolFlags.Value) ? `type ${s.name}` : s.name;
    })
    .sort();
}

describe.each(entries)("src/%s.ts", (entry) => {
  test("names what it exports", () => {
    const stars = [...readFileSync(fileOf(entry), "utf8").matchAll(/^export \* from (".*")/gm)].map((m) => m[1]);
    expect(stars).toEqual(entry === "index" ? [] : ['"./index.ts"']);
  });

  test("offers the names of the list", async () => {
    await expect(`${namesOf(entry).join("\n")}\n`).toMatchFileSnapshot(`fixtures/public-api/${entry}.txt`);
  });
});

test("what is offered in both is the same", () => {
  const own = new Set(namesOf("index"));
  for (const entry of ["node", "web"]) expect([...own].filter((name) => !namesOf(entry).includes(name))).toEqual([]);
});
