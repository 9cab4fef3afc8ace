import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { compareSize, isPublished, modelsPage, page } from "../../scripts/models-table.ts";
import { listModels, modelInfo } from "../../src/models/index.ts";

test.for([
  [4_764_000, "4.76 M", true],
  [4_765_001, "4.76 M", false],
  [9_108_968, "9,108,968", true],
  [9_108_969, "9,108,968", false],
  [826_000_000, "0.83 G", true],
  [31_400_000, "31 M", true],
] as const)("%i is %s: %s", ([value, published, equal]) => {
  expect(isPublished(value, published)).toBe(equal);
});

const published = listModels().flatMap((name) => (modelInfo(name).sizes ?? []).map((size) => [name, size] as const));

test("sizes were published for many", () => expect(published.length).toBeGreaterThan(20));

test.for(published)("%s has the size that was published, or it is said why not: %j", ([name, size]) => {
  const equal = Object.values(compareSize(name, size)).every((e) => e);
  expect(equal || (size.difference ?? "").length > 10, JSON.stringify(compareSize(name, size))).toBe(true);
  if (equal) expect(size.difference).toBeUndefined();
});

test("docs/guides/models.md is current: npx tsx scripts/models-table.ts --write", () => {
  expect(readFileSync(page, "utf8")).toBe(modelsPage());
});
