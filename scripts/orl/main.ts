/**
 * ORL faces with small networks: trained with AM-Softmax on some of the people in the folder, verified on pairs of the
 * others, who were never seen; both forms, beside the pixels themselves and untrained networks.
 * `npx tsx scripts/orl/main.ts ORL OUT [--epochs 100] [--seed 0] [--trained 16]`
 *
 * ORL holds folders s1, s3, … with ten pictures each. Of those that it is trained on, pictures 9 and 10 are for validation. Writes
 * the data as it was cut, a run folder per variant, results.md, results.json and roc.svg. A variant that has its checkpoint
 * is not trained again.
 */
import { cpSync, existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openClassifier } from "../../src/inference/node/index.ts";
import { readRecipe, train } from "../../src/recipes/node/index.ts";
import { chartsSvg } from "../../src/report/node/curves.ts";
import { rocChart } from "../../src/report/node/roc.ts";
import { registerNode } from "../../src/runtime/node/platform.ts";
import type { FacePair } from "../../src/tasks/index.ts";
import {
  baselineEmbedders,
  embeddersOf,
  type FaceVerification,
  faceGallery,
  identifyFaces,
  verifyPairs,
} from "../../src/tasks/node/index.ts";
import { rng } from "../../src/tensor/index.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    epochs: { type: "string" },
    seed: { type: "string", default: "0" },
    trained: { type: "string", default: "16" },
  },
});
const [orl, out] = positionals;
if (!out) throw new Error("usage: npx tsx scripts/orl/main.ts ORL OUT [--epochs 100] [--trained 16]");
registerNode();

const TRAINED = Number(values.trained);
const people = readdirSync(orl)
  .filter((name) => /^s\d+$/.test(name))
  .sort((a, b) => Number(a.slice(1)) - Number(b.slice(1)));
const data = join(out, "data");
const unseen = join(data, "unseen");
for (const [i, person] of people.entries())
  for (let k = 1; k <= 10; k++) {
    const to = i >= TRAINED ? unseen : join(data, k > 8 ? "val" : "train");
    mkdirSync(join(to, person), { recursive: true });
    cpSync(join(orl, person, `${k}.pgm`), join(to, person, `${k}.pgm`));
  }

/** All pairs of one person, and as many of two, in a random order. */
function unseenPairs(): readonly FacePair[] {
  const random = rng(0, "pairs");
  const others = people.slice(TRAINED);
  const picture = (person: string, k: number): string => `${person}/${k + 1}.pgm`;
  const same = others.flatMap((person) =>
    Array.from({ length: 10 }, (_, i) =>
      Array.from({ length: 9 - i }, (_, j) => ({ a: picture(person, i), b: picture(person, i + j + 1), same: true })),
    ).flat(),
  );
  const different = same.map(() => {
    const first = random.below(others.length);
    const second = (first + 1 + random.below(others.length - 1)) % others.length;
    return { a: picture(others[first], random.below(10)), b: picture(others[second], random.below(10)), same: false };
  });
  const all: FacePair[] = [...same, ...different];
  for (let i = all.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [all[i], all[j]] = [all[j], all[i]];
  }
  return all;
}

const pairs = unseenPairs();
const gallery = await faceGallery(unseen, join(data, "train"));
const found: { readonly name: string; readonly result: FaceVerification; readonly rankOne: number }[] = [];
for (const variant of ["faceresnet", "repmlp-faceres"]) {
  const folder = join(out, variant);
  const recipe = await readRecipe(join(import.meta.dirname, `${variant}.json`));
  const epochs = values.epochs === undefined ? {} : { epochs: Number(values.epochs) };
  if (!existsSync(join(folder, "train.pth")))
    await train({
      ...{ data, recipe: { ...recipe, ...epochs }, folder, task: "faces", seed: Number(values.seed), overwrite: true },
      workers: 0,
      onEvent: (event) => {
        if (event.type === "epoch" && event.epoch % 10 === 0)
          console.log(`${variant}: epoch ${event.epoch}, loss ${event.trainLoss.toFixed(3)}`);
      },
    });
  const file = await openClassifier(join(folder, "train.pth"));
  const [pixels, untrained] = await baselineEmbedders(file);
  const forms = await embeddersOf(file);
  for (const { name, embed, dispose } of [...(found.length ? [] : [pixels]), untrained, ...forms]) {
    const result = await verifyPairs(embed, pairs, unseen);
    const { rankOne } = await identifyFaces(embed, gallery);
    found.push({ name: name === "pixels" ? name : `${variant}, ${name}`, result, rankOne });
    await dispose();
  }
  file.close();
}

const percent = (share: number): string => (100 * share).toFixed(2);
const rows = found.map(({ name, result: { mean, deviation, tarAtFar }, rankOne }) => [
  name,
  `${percent(mean)} ± ${percent(deviation)}`,
  ...tarAtFar.map(({ tar }) => percent(tar)),
  percent(rankOne),
]);
const head = ["", "accuracy, %", "TAR at FAR 1e-2, %", "TAR at FAR 1e-3, %", "rank-1, %"];
const table = [head, head.map((_, i) => (i ? "---:" : "---")), ...rows]
  .map((row) => `| ${row.join(" | ")} |\n`)
  .join("");
writeFileSync(join(out, "results.md"), table);
writeFileSync(join(out, "results.json"), JSON.stringify({ pairs: pairs.length, found }, null, 1));
writeFileSync(
  join(out, "roc.svg"),
  await chartsSvg("ORL faces, people never seen", [
    rocChart(found.filter(({ name }) => !name.endsWith("train")).map(({ name, result }) => ({ name, ...result.roc }))),
  ]),
);
console.log(table);
