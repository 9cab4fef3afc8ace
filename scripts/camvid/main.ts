/**
 * CamVid with small networks: PSPNet on a plain and on a RepMLP backbone, and a U-Net of about as many multiply-adds, each trained
 * on the same number of pictures from random values; both forms of each are tested on whole pictures.
 * `npx tsx scripts/camvid/main.ts CAMVID OUT [--epochs 60] [--seed 0] [--variants repmlp,plain,unet]`
 *
 * CAMVID holds train, trainannot, val, valannot and classes.txt. Writes for each variant a run folder with overlays.html,
 * and results.md and results.json. A variant that has its result is not run again; one that was stopped goes on.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { maskPairs } from "../../src/data/node/index.ts";
import { modelInfo } from "../../src/models/index.ts";
import { countMacs, countParameters } from "../../src/nn/index.ts";
import { readRecipe, train } from "../../src/recipes/node/index.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import { overlayPage } from "../../src/report/node/overlay-page.ts";
import { registerNode } from "../../src/runtime/node/platform.ts";
import type { SegmentationScores } from "../../src/tasks/index.ts";
import { Segmenter, testPixels } from "../../src/tasks/node/index.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    epochs: { type: "string" },
    seed: { type: "string", default: "0" },
    variants: { type: "string", default: "repmlp,plain,unet" },
    threads: { type: "string" },
  },
});
const [data, out] = positionals;
if (!out) throw new Error("usage: npx tsx scripts/camvid/main.ts CAMVID OUT [--epochs 60] [--seed 0]");
registerNode();

/** The label of what is unlabelled. */
const IGNORED = 11;

interface Result {
  readonly variant: string;
  readonly epochs: number;
  readonly pictures: number;
  readonly parameters: readonly [train: number, deploy: number];
  readonly macs: readonly [train: number, deploy: number];
  readonly classes: readonly string[];
  readonly scores: readonly SegmentationScores[];
  /** Both forms, mirrored pictures and three scales beside. */
  readonly severalScales: readonly SegmentationScores[];
  readonly agree: number;
  readonly pixels: number;
  readonly seconds: number;
}

async function run(variant: string): Promise<Result> {
  const folder = join(out, variant);
  const file = join(folder, "result.json");
  if (existsSync(file)) return JSON.parse(readFileSync(file, "utf8"));
  const own = await readRecipe(join(import.meta.dirname, `${variant}.json`));
  const recipe = { ...own, ...(values.epochs !== undefined && { epochs: Number(values.epochs) }) };
  const threads = values.threads === undefined ? {} : { threads: Number(values.threads) };
  const { model, summary, name } = await train({
    ...{ data, recipe, folder, task: "segmentation", seed: Number(values.seed), ...threads },
    ...(existsSync(join(folder, "last.safetensors")) ? { resume: true } : { overwrite: true }),
    onEvent: (event) => {
      if (event.type === "epoch")
        console.log(
          `${variant}: epoch ${event.epoch}, loss ${event.trainLoss.toFixed(3)}, mIoU ${event.validationMiou}`,
        );
    },
  });
  const classes = readFileSync(join(data, "classes.txt"), "utf8").trim().split(/\r?\n/);
  const { imageSize, ...options } = recipe.model as { readonly imageSize: readonly [number, number] };
  const preprocessing = modelInfo(name).preprocessing({ ...options, imageSize } as never);
  const net = model.eval();
  const deploy = convertToDeploy(net);
  const pairs = await maskPairs(data, "val");
  const labels = { ignoreLabel: IGNORED };
  const test = async (settings: object) => {
    const forms = [net, deploy].map((form) => Segmenter.ofNet(form, preprocessing, settings));
    const found = await testPixels(forms, pairs, classes.length, labels);
    return { forms, found };
  };
  const { forms, found } = await test({ batchSize: 4 });
  const chosen = pairs.filter((_, i) => i % Math.ceil(pairs.length / 8) === 0);
  const page = await overlayPage(forms[1], chosen, classes, { ...labels, title: `${name} on CamVid` });
  writeFileSync(join(folder, "overlays.html"), page);
  await Promise.all(forms.map((form) => form.dispose()));
  const several = await test({ batchSize: 4, mirror: true, scales: [0.75, 1, 1.25] });
  await Promise.all(several.forms.map((form) => form.dispose()));
  const shape = [1, 3, ...imageSize];
  const result: Result = {
    ...{ variant, classes, epochs: recipe.epochs, pictures: recipe.epochs * 120 },
    parameters: [countParameters(net), countParameters(deploy)],
    macs: [countMacs(net, shape), countMacs(deploy, shape)],
    scores: found.scores,
    severalScales: several.found.scores,
    ...{ agree: found.agree, pixels: found.pixels },
    seconds: summary.history.reduce((sum, { seconds }) => sum + seconds, 0),
  };
  writeFileSync(file, JSON.stringify(result, null, 1));
  return result;
}

/** Rows as a table in Markdown; the first is the heading. */
const markdownTable = ([head, ...rows]: readonly (readonly string[])[]): string =>
  [head, head.map((_, i) => (i ? "---:" : "---")), ...rows].map((row) => `| ${row.join(" | ")} |\n`).join("");

const percent = (share: number): string => (100 * share).toFixed(2);

mkdirSync(out, { recursive: true });
const results: Result[] = [];
for (const variant of values.variants.split(",")) {
  results.push(await run(variant));
  const heads = ["", ...results.map(({ variant: name }) => name)];
  const row = (title: string, of: (r: Result) => string): string[] => [title, ...results.map(of)];
  const rows = [
    row("mIoU, training form", ({ scores }) => percent(scores[0].meanIou)),
    row("mIoU, deploy form", ({ scores }) => percent(scores[1].meanIou)),
    row("mAcc", ({ scores }) => percent(scores[1].meanAccuracy)),
    row("aAcc", ({ scores }) => percent(scores[1].pixelAccuracy)),
    row("mIoU, 3 scales and mirrored", ({ severalScales }) => percent(severalScales[1].meanIou)),
    row("pixels of equal class in both forms", ({ agree, pixels }) => `${((100 * agree) / pixels).toFixed(4)} %`),
    row("parameters, training", ({ parameters }) => String(parameters[0])),
    row("parameters, deploy", ({ parameters }) => String(parameters[1])),
    row("multiply-adds of a tile, deploy", ({ macs }) => `${(macs[1] / 1e6).toFixed(0)} M`),
    row("pictures in training", ({ pictures }) => String(pictures)),
    ...results[0].classes.map((name, c) => row(`IoU ${name}`, ({ scores }) => percent(scores[1].iou[c]))),
  ];
  const table = markdownTable([heads, ...rows]);
  writeFileSync(join(out, "results.md"), table);
  writeFileSync(join(out, "results.json"), JSON.stringify(results, null, 1));
  console.log(table);
}
