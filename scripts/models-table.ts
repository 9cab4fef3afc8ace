/*
 * The page of all networks: parameters and multiply-adds of both forms beside what was published, and accuracies.
 *
 *     npx tsx scripts/models-table.ts            prints it
 *     npx tsx scripts/models-table.ts --write    writes docs/guides/models.md
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { grouped } from "../src/cli/text-table.ts";
import { createModel, listModels, modelInfo, type PublishedSize } from "../src/models/index.ts";
import { countMacs, countParameters } from "../src/nn/index.ts";
import { deployForm } from "../src/reparam/index.ts";

const units = { "": 1, K: 1e3, M: 1e6, G: 1e9 } as const;

/** Whether `value` is what was published, to the digits that were: `4.76 M` for 4,764,000. */
export function isPublished(value: number, published: string): boolean {
  const [, digits, unit] = /^([\d,]+(?:\.\d+)?) ?([KMG]?)$/.exec(published) ?? [];
  if (digits === undefined) throw new Error(`models-table: "${published}" is not a size such as 4.76 M or 9,108,968`);
  const plain = digits.replaceAll(",", "");
  return (value / units[unit as keyof typeof units]).toFixed(plain.split(".")[1]?.length ?? 0) === plain;
}

export interface Sizes {
  readonly parameters: number;
  readonly macs: number;
}

type BothSizes = Readonly<Record<PublishedSize["form"], Sizes>>;

const known = new Map<string, BothSizes>();

/** Both forms' sizes, at `imageSize` or the model's own; counted once. */
export function sizesOf(name: string, imageSize?: number): BothSizes {
  const key = `${name} ${imageSize ?? ""}`;
  const sizes = known.get(key) ?? counted(name, imageSize);
  known.set(key, sizes);
  return sizes;
}

function counted(name: string, imageSize?: number): BothSizes {
  const options = imageSize === undefined ? {} : { imageSize };
  const model = createModel(name, options);
  const shape = [1, ...modelInfo(name).preprocessing(options).inputSize];
  const [train, deploy] = [model, deployForm(model)].map((form) => ({
    parameters: countParameters(form),
    macs: countMacs(form, shape),
  }));
  return { train, deploy };
}

/** How one published size stands to ours: per number, `true` where they agree. */
export function compareSize(name: string, published: PublishedSize): Partial<Record<keyof Sizes, boolean>> {
  const own = sizesOf(name, published.imageSize)[published.form];
  return Object.fromEntries(
    (["parameters", "macs"] as const)
      .filter((what) => published[what] !== undefined)
      .map((what) => [what, isPublished(own[what], published[what]!)]),
  );
}

const gmacs = ({ macs }: Sizes): string => (macs / 1e9).toFixed(3);

/** The whole page. */
export function modelsPage(): string {
  const all = listModels();
  const families = [...new Set(all.map((name) => modelInfo(name).family))];
  const sections = families.map((family) => {
    const names = all.filter((name) => modelInfo(name).family === family);
    const notes: string[] = [];
    const rows = names.map((name) => {
      const { figures = [], sizes = [], preprocessing } = modelInfo(name);
      const { inputSize } = preprocessing({});
      const { train, deploy } = sizesOf(name);
      const published = (what: keyof Sizes): string =>
        sizes
          .filter((s) => s[what] !== undefined)
          .map((s) => {
            const equal = compareSize(name, s)[what];
            const at = s.imageSize && s.imageSize !== inputSize[2] && what === "macs" ? ` at ${s.imageSize}` : "";
            if (!equal && s.difference && !notes.includes(s.difference)) notes.push(s.difference);
            const mark = equal ? "=" : `(${notes.indexOf(s.difference ?? "") + 1})`;
            return `${s.form} ${s[what]}${at} ${mark}`;
          })
          .join(", ");
      return [
        ...[
          `\`${name}\``,
          inputSize[2],
          grouped(train.parameters),
          grouped(deploy.parameters),
          published("parameters"),
        ],
        ...[gmacs(train), gmacs(deploy), published("macs")],
        figures.map((f) => `${f.top1}${f.imageSize === inputSize[2] ? "" : ` at ${f.imageSize}`}`).join(", "),
      ];
    });
    const sources = new Set(
      names.flatMap((name) => {
        const { figures = [], sizes = [] } = modelInfo(name);
        return [...figures.map((f) => `top-1: ${f.source}`), ...sizes.map((s) => `sizes: ${s.source}`)];
      }),
    );
    return [
      `## ${family}`,
      "",
      "| model | input | parameters | deploy | published | GMACs | deploy | published | top-1 |",
      "|---|---:|---:|---:|---|---:|---:|---|---|",
      ...rows.map((cells) => `| ${cells.join(" | ")} |`),
      "",
      ...notes.map((note, i) => `(${i + 1}) ${note}\n`),
      ...(sources.size ? [`Sources: ${[...sources].join("; ")}.`, ""] : []),
    ].join("\n");
  });
  return `${[
    "# The networks",
    "",
    "Parameters and multiply-adds of the training and the deploy form (batch norm's parameters count; multiply-adds are",
    "those of convolutions and products of matrices), beside what was published: `=` means equal to the digits that were",
    "given. Top-1 in percent as published, of the weights that the source offers. `npx tsx scripts/models-table.ts --write`",
    "makes this page.",
    "",
    ...sections,
  ]
    .join("\n")
    .trimEnd()}\n`;
}

/** Where it is. */
export const page = join(import.meta.dirname, "../docs/guides/models.md");

if (import.meta.filename === process.argv[1]) {
  const text = modelsPage();
  if (process.argv.includes("--write")) writeFileSync(page, text);
  else process.stdout.write(text);
}
