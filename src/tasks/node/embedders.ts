import { Predictor } from "../../inference/index.ts";
import type { Classifier } from "../../inference/node/index.ts";
import { createModel, type ModelForm } from "../../models/index.ts";
import type { Net } from "../../nn/index.ts";
import { convertToDeploy } from "../../reparam/index.ts";
import type { CompileOptions } from "../../runtime/index.ts";
import { type EmbedOptions, embedFiles, pixelEmbeddings } from "./embed-files.ts";
import type { FileEmbedder } from "./verify-faces.ts";

export interface EmbedderOptions extends Omit<EmbedOptions, "preprocessing"> {
  readonly compile?: CompileOptions;
}

/** What makes embeddings of files, under a name. */
export interface NamedEmbedder {
  readonly name: string;
  readonly embed: FileEmbedder;
  dispose(): Promise<void>;
}

async function ofNet(
  name: string,
  net: Net,
  { preprocessing }: Classifier,
  options: EmbedderOptions,
): Promise<NamedEmbedder> {
  const { compile, batchSize = 32, ...rest } = options;
  const predictor = await Predictor.create(net, { ...compile, batchSize, inputShape: preprocessing.inputSize });
  return {
    name,
    embed: (paths) => embedFiles((x) => predictor.run(x), paths, { ...rest, batchSize, preprocessing }),
    dispose: () => predictor.dispose(),
  };
}

/**
 * The forms of a network as embedders of files: of a training checkpoint both, or those asked for; of other files the form
 * that they hold.
 */
export async function embeddersOf(
  file: Classifier,
  { forms = ["train", "deploy"], ...options }: EmbedderOptions & { readonly forms?: readonly ModelForm[] } = {},
): Promise<readonly NamedEmbedder[]> {
  const { net, form = "deploy", preprocessing } = file;
  if (net && form === "train") {
    const made = { train: () => net, deploy: () => convertToDeploy(net.initialize()) };
    return Promise.all(forms.map((wanted) => ofNet(wanted, made[wanted](), file, options)));
  }
  if (net) return [await ofNet(form, net, file, options)];
  const { compile, batchSize = 32, ...rest } = options;
  const compiled = await file.compile({ ...compile, batchSize });
  return [
    {
      name: form,
      embed: (paths) => embedFiles((x) => compiled.run(x), paths, { ...rest, batchSize, preprocessing }),
      dispose: () => compiled.dispose(),
    },
  ];
}

/**
 * What a network is to be better than: the pixels themselves and, where the architecture is known, the same network with
 * its initial values.
 */
export async function baselineEmbedders(
  file: Classifier,
  options: EmbedderOptions = {},
): Promise<readonly NamedEmbedder[]> {
  const { compile: _, ...rest } = options;
  const { arch, preprocessing, modelOptions } = file;
  const pixels: NamedEmbedder = {
    name: "pixels",
    embed: (paths) => pixelEmbeddings(paths, { ...rest, preprocessing }),
    dispose: async () => {},
  };
  if (arch === undefined || modelOptions === undefined) return [pixels];
  const untrained = createModel(arch, modelOptions).eval().initialize(0);
  return [pixels, await ofNet("untrained", untrained, file, options)];
}
