import { createModel, type Figure, listModels, modelInfo } from "../../models/index.ts";
import { countMacs, countParameters } from "../../nn/index.ts";
import { deployForm } from "../../reparam/index.ts";
import type { Run } from "../table.ts";
import { grouped, textTable } from "../text-table.ts";

/** Lists architectures; sizes follow from shapes alone, no values are made. */
export const run: Run<"models"> = async ({ args: { glob }, io }) => {
  const models = listModels(glob).map((name) => {
    const { description, task, figures = [], preprocessing } = modelInfo(name);
    const { inputSize } = preprocessing({});
    const model = createModel(name);
    const [train, deploy] = [model, deployForm(model)].map((form) => ({
      parameters: countParameters(form),
      macs: countMacs(form, [1, ...inputSize]),
    }));
    return { name, task, description, inputSize, train, deploy, figures };
  });
  if (!models.length) io.note(`no model matches "${glob}"; repmlp models lists all`);
  const sources = [...new Set(models.flatMap(({ figures }) => figures.map(({ source }) => source)))];
  const accuracy = ({ top1, imageSize, source }: Figure, own: number): string =>
    `${top1.toFixed(2)}${imageSize === own ? "" : ` at ${imageSize}`} [${sources.indexOf(source) + 1}]`;
  io.result(models, () =>
    [
      textTable(
        [
          ["model", "input", "parameters", "deploy", "GMACs", "deploy", "top-1", "what it is"],
          ...models.map(({ name, inputSize, train, deploy, figures, description }) => [
            name,
            inputSize.join(" x "),
            grouped(train.parameters),
            grouped(deploy.parameters),
            (train.macs / 1e9).toFixed(3),
            (deploy.macs / 1e9).toFixed(3),
            figures.map((figure) => accuracy(figure, inputSize[2])).join(", "),
            description,
          ]),
        ],
        "llrrrrll",
      ),
      ...(sources.length ? ["", "top-1 in percent, as published:"] : []),
      ...sources.map((source, i) => `[${i + 1}] ${source}`),
    ].join("\n"),
  );
  return models.length ? undefined : 1;
};
