import { mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { saveCheckpointFile, writeFileAtomically } from "../../checkpoint/node/index.ts";
import type { Preprocessing } from "../../data/index.ts";
import type { ExportMetadata } from "../../inference/metadata.ts";
import { saveOnnx } from "../../inference/node/onnx-file.ts";
import { countParameters, type Net } from "../../nn/index.ts";
import { convertToDeploy } from "../../reparam/index.ts";
import { type ExportOnnxOptions, exportOnnx, type OnnxExport } from "../export-onnx.ts";
import type { ExportDType } from "../graph.ts";
import { hubConfig, hubModelFile, hubPreprocessor, inColour, takingColour } from "../hub.ts";
import { type CardEvaluation, modelCard } from "../model-card.ts";

export interface ExportHubOptions extends Omit<ExportOnnxOptions, "inputShape" | "dtype" | "metadata"> {
  readonly arch: string;
  /** One sentence about the architecture, for the card. */
  readonly description: string;
  readonly preprocessing: Preprocessing;
  /** Class names by output. */
  readonly labels?: readonly string[];
  /** What is said of the task, for the files' metadata. */
  readonly taskMetadata?: ExportMetadata["task"];
  /** Default float32 and float16. */
  readonly dtypes?: readonly ExportDType[];
  readonly source?: ExportMetadata["source"];
  readonly license?: string;
  /** Goes into the card. */
  readonly evaluation?: CardEvaluation;
  /** Told before each file. */
  readonly onFile?: (name: string) => void;
}

/** What is in the folder. */
export interface HubFolder {
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
  /** The exports by type. */
  readonly exports: ReadonlyMap<ExportDType, Omit<OnnxExport, "model">>;
}

/**
 * Writes a model folder as transformers.js and the Hugging Face hub know it: `config.json`, `preprocessor_config.json`,
 * `onnx/model.onnx` and `_fp16`, `model.safetensors` (the same form), and a card. `pipeline("image-classification",
 * folder)`, or the pipeline of the network's task, opens it. The ONNX files of a network for grey pictures take colour ones, as transformers.js gives them, and
 * compute the brightness first.
 *
 * @throws RepmlpError as {@link exportOnnx}, `export/labels`, and `export/preprocessing` for what transformers.js cannot
 *   do
 */
export async function exportHub(net: Net, folder: string, options: ExportHubOptions): Promise<HubFolder> {
  const { arch, labels, source, task, taskMetadata, dtypes = ["float32", "float16"], onFile = () => {} } = options;
  const isGrey = options.preprocessing.inputSize[0] === 1;
  const preprocessing = isGrey ? inColour(options.preprocessing) : options.preprocessing;
  // What cannot be written is found before the first file is.
  const preprocessor = hubPreprocessor(preprocessing, options.task);
  await mkdir(join(folder, "onnx"), { recursive: true });
  const exports = new Map<ExportDType, Omit<OnnxExport, "model">>();
  const external: ExportDType[] = [];
  const names: string[] = [];
  let classes = 0;
  for (const dtype of dtypes) {
    const name = hubModelFile[dtype];
    onFile(name);
    const { model: own, ...rest } = await exportOnnx(net, {
      ...options,
      dtype,
      inputShape: options.preprocessing.inputSize,
      metadata: {
        ...{ arch, preprocessing, ...(labels && { labels }), ...(source && { source }) },
        ...(taskMetadata && { task: taskMetadata }),
      },
    });
    const model = isGrey ? takingColour(own) : own;
    classes = Number(model.outputs[0].shape?.[1]);
    exports.set(dtype, rest);
    const { paths } = await saveOnnx(join(folder, name), model);
    if (paths.length > 1) external.push(dtype);
    names.push(name, ...paths.slice(1).map(() => `${name}_data`));
  }
  const written = options.keepBranches ? net : convertToDeploy(net);
  onFile("model.safetensors");
  // Transformers refuses safetensors without this entry.
  const metadata = { format: "pt", arch };
  await saveCheckpointFile(join(folder, "model.safetensors"), written.stateDict(), { metadata });
  const config = { arch, task, dtypes, classes, labels, preprocessing, external };
  await writeJson(join(folder, "config.json"), hubConfig(config));
  await writeJson(join(folder, "preprocessor_config.json"), preprocessor);
  const files = await sizes(folder, [...names, "model.safetensors", "config.json", "preprocessor_config.json"]);
  const checks = dtypes.flatMap((dtype) => {
    const check = exports.get(dtype)?.check;
    return check ? [{ name: hubModelFile[dtype], ...check }] : [];
  });
  const form = formOf(exports.get(dtypes[0])!);
  const card = modelCard({
    ...options,
    preprocessing,
    isGrey,
    parameters: countParameters(written),
    classes,
    files,
    form,
    checks,
  });
  await writeText(join(folder, "README.md"), card);
  return { files: [...files, ...(await sizes(folder, ["README.md"]))], exports };
}

const formOf = ({ left }: Omit<OnnxExport, "model">): string =>
  left ? `Training form with ${left} unmerged blocks.` : "Deploy form: all branches are merged.";

const sizes = (folder: string, names: readonly string[]): Promise<{ name: string; bytes: number }[]> =>
  Promise.all(names.map(async (name) => ({ name, bytes: (await stat(join(folder, name))).size })));

const writeJson = (path: string, value: object): Promise<void> =>
  writeText(path, `${JSON.stringify(value, undefined, 2)}\n`);

const writeText = (path: string, text: string): Promise<void> =>
  writeFileAtomically(path, async (sink) => sink.write(new TextEncoder().encode(text)));
