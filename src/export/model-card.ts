import { describePreprocessing, type Preprocessing } from "../data/index.ts";
import { fmtBytes } from "../tensor/index.ts";
import { visible } from "../text.ts";
import { formatOf } from "./task-format.ts";

/** Accuracy of the exported weights, as found by an evaluation of the very file. */
export interface CardEvaluation {
  /** Name of the data set, for readers. */
  readonly dataset: string;
  readonly correct: number;
  readonly correctTop5: number;
  readonly total: number;
}

export interface CardOptions {
  readonly arch: string;
  /** Name of the task that the network is for. Default `classification`. */
  readonly task?: string;
  readonly description: string;
  /** SPDX identifier or one of the hub's words; the hub shows it. */
  readonly license?: string;
  readonly preprocessing: Preprocessing;
  /** Whether the ONNX files turn their pictures grey before anything else. */
  readonly isGrey?: boolean;
  /** Values of the network that was exported. */
  readonly parameters: number;
  readonly classes: number;
  /** Files and sizes in bytes. */
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
  /** What became of the branches, one sentence. */
  readonly form: string;
  readonly source?: { readonly name: string; readonly sha256: string };
  /** Largest difference from the network that was exported, by file. */
  readonly checks: readonly { readonly name: string; readonly maxAbsDiff: number; readonly scale: number }[];
  readonly evaluation?: CardEvaluation;
}

/** README.md of a model folder. Without an evaluation it claims no accuracy. */
export const modelCard = (options: CardOptions): string =>
  [header(options), title(options), usage(options), input(options), results(options), files(options)].join("\n");

const percent = (part: number, total: number): string => ((100 * part) / total).toFixed(3);

function header({ arch, task, license = "unknown", evaluation }: CardOptions): string {
  const { pipeline } = formatOf(task);
  const lines = [
    "---",
    `license: ${yaml(license)}`,
    "library_name: transformers.js",
    `pipeline_tag: ${pipeline}`,
    "tags:",
    ...["onnx", "repmlp", "structural-re-parameterization"].map((tag) => `- ${tag}`),
  ];
  if (evaluation) {
    const metric = (name: string, type: string, part: number) => [
      `    - name: ${name}`,
      `      type: ${type}`,
      `      value: ${percent(part, evaluation.total)}`,
    ];
    lines.push(
      "metrics:",
      "- accuracy",
      "model-index:",
      `- name: ${yaml(arch)}`,
      "  results:",
      "  - task:",
      `      type: ${pipeline}`,
      "    dataset:",
      `      name: ${yaml(evaluation.dataset)}`,
      "      type: imagefolder",
      "    metrics:",
      ...metric("Top-1 accuracy (%)", "accuracy", evaluation.correct),
      ...metric("Top-5 accuracy (%)", "top-5-accuracy", evaluation.correctTop5),
    );
  }
  return [...lines, "---", ""].join("\n");
}

/** JSON strings are YAML strings, but for a few characters that YAML wants written out. */
const yaml = (text: string): string =>
  JSON.stringify(text).replace(
    /[\u007f-\u009f\u2028\u2029\ufeff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );

/** Text from elsewhere in running Markdown or a table cell: shown as it is, on one line. */
const plain = (text: string): string =>
  visible(text)
    .replace(/[\\`*_{}[\]<>|~#&$!]/g, (c) => `\\${c}`)
    .replace(/^(\s*)(\d+)([.)])|^(\s*)([-+=])/, (_, a = "", n = "", dot = "", b = "", mark = "") =>
      n ? `${a}${n}\\${dot}` : `${b}\\${mark}`,
    );

/** Text from elsewhere as code; a fence is longer than any row of backticks inside. */
function code(text: string): string {
  const shown = visible(text);
  const longest = Math.max(0, ...(shown.match(/`+/g) ?? []).map((row) => row.length));
  const fence = "`".repeat(longest + 1);
  const space = /^`|`$|^ .* $/.test(shown) ? " " : "";
  return `${fence}${space}${shown}${space}${fence}`;
}

const title = ({ arch, task, description, parameters, classes, form, source }: CardOptions): string => `# ${plain(arch)}

${description.slice(0, 1).toUpperCase()}${visible(description.slice(1))}. ${parameters.toLocaleString("en")} parameters, ${classes.toLocaleString("en")} ${formatOf(task).outputs.noun}. ${form}${
  source ? `\n\nMade from ${code(source.name)} (SHA-256 ${code(source.sha256)}).` : ""
}
`;

const usage = ({ task }: CardOptions): string => `## Use

\`\`\`js
import { pipeline } from "@huggingface/transformers";

${formatOf(task).usage.join("\n")}
\`\`\`

The ONNX files take \`pixel_values\` (float32, batch × channels × height × width) and give \`logits\`${formatOf(task).outputs.shape}. \`config.json\` names
the model type of a plain network of this kind; Python's transformers cannot build the network from it, but reads the ONNX
files with ONNX Runtime.
`;

function input({ preprocessing, isGrey }: CardOptions): string {
  const grey =
    "\nThe network is for grey pictures: the ONNX files compute the brightness of their input first. `model.safetensors`\n" +
    "holds the network alone.\n";
  return `## Input

${describePreprocessing(preprocessing)}.
${isGrey ? grey : ""}
transformers.js resizes with other filters than Pillow (without antialiasing in Node, by the browser's canvas in a page),
so its scores differ slightly from those of the evaluation below and of PyTorch.
`;
}

function results({ evaluation }: CardOptions): string {
  if (!evaluation) return "## Accuracy\n\nNot evaluated.\n";
  const { dataset, correct, correctTop5, total } = evaluation;
  return `## Accuracy

| data | top-1 | top-5 |
|---|---|---|
| ${plain(dataset)} | ${percent(correct, total)} % (${correct} of ${total}) | ${percent(correctTop5, total)} % (${correctTop5} of ${total}) |
`;
}

function files({ files, checks }: CardOptions): string {
  const check = new Map(checks.map((c) => [c.name, c]));
  const rows = files.map(({ name, bytes }) => {
    const found = check.get(name);
    const difference = found ? `${found.maxAbsDiff.toExponential(1)} (logits up to ${found.scale.toPrecision(3)})` : "";
    return `| ${plain(name)} | ${fmtBytes(bytes)} | ${difference} |`;
  });
  return `## Files

| file | size | largest difference from the network it was made of |
|---|---|---|
${rows.join("\n")}
`;
}
