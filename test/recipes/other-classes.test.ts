import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { createModel, saveCheckpointFile, type TrainingPlan, train } from "../../src/node.ts";
import { parseRecipe } from "../../src/recipes/recipe.ts";
import { tinyRecipe, writeCifar } from "./support.ts";

const folder = mkdtempSync(join(tmpdir(), "repmlp-other-classes-"));
const at = (name: string): string => join(folder, name);
const recipe = parseRecipe(JSON.stringify({ ...tinyRecipe, epochs: 1 }), "r.json");
let classes: readonly string[];

/** What is said of a start from a file that states these classes. */
async function remarksOf(stated: readonly string[], options: object = {}): Promise<readonly string[]> {
  const model = createModel(tinyRecipe.arch, { ...tinyRecipe.model, numClasses: 10 }).initialize(2);
  await saveCheckpointFile(at("init.pth"), model.stateDict(), { metadata: { classes: JSON.stringify(stated) } });
  let plan: TrainingPlan | undefined;
  const run = { data: at("cifar"), recipe, folder: at("run"), init: at("init.pth"), overwrite: true, ...options };
  const onStart = (told: TrainingPlan): void => {
    plan = told;
  };
  const { test: data } = await train({ ...run, onStart });
  classes = "classes" in data ? (data.classes as readonly string[]) : [];
  return plan?.loaded?.remarks ?? [];
}

beforeAll(() => void writeCifar(at("cifar")));

test("a head is kept for as many classes of other names, or in another order: that is said, with the way out", async () => {
  const letters = [..."abcdefghij"];
  const [said, ...more] = await remarksOf(letters);
  expect(more).toEqual([]);
  expect(said).toMatch(
    /^its head is kept, although output 0 stood for a and stands for \S+ now \(before a, b, c … and 7 more, now .*\)\. A new head begins with --num-classes 10\.$/,
  );
  expect(await remarksOf([classes[1], classes[0], ...classes.slice(2)])).toHaveLength(1);
  expect(await remarksOf(classes)).toEqual([]);
  expect(await remarksOf(letters, { numClasses: 10 })).toEqual([]);
});
