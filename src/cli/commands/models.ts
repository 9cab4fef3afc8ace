import { createModel, listModels, modelInfo } from "../../models/index.ts";
import { countMacs, countParameters } from "../../nn/index.ts";
import { deployForm } from "../../reparam/index.ts";
import type { Run } from "../table.ts";
import { grouped, textTable } from "../text-table.ts";

/** Lists architectures; sizes follow from shapes alone, no values are made. */
export const run: Run<"models"> = async ({ args: { glob }, io }) => {
  const models = listModels(glob).map((name) => {
    const { description, preprocessing } = modelInfo(name);
    const { inputSize } = preprocessing({});
    const model = createModel(name);
    const [train, deploy] = [model, deployForm(model)].map((form) => ({
      parameters: countParameters(form),
      macs: countMacs(form, [1, ...inputSize]),
    }));
    return { name, description, inputSize, train, deploy };
  });
  if (!models.length) io.note(`no model matches "${glob}"; repmlp models lists all`);
  io.result(models, () =>
    textTable(
      [
        ["model", "input", "parameters", "deploy", "GMACs", "deploy", "what it is"],
        ...models.map(({ name, inputSize, train, deploy, description }) => [
          name,
          inputSize.join(" x "),
          grouped(train.parameters),
          grouped(deploy.parameters),
          (train.macs / 1e9).toFixed(3),
          (deploy.macs / 1e9).toFixed(3),
          description,
        ]),
      ],
      "llrrrrl",
    ),
  );
  return models.length ? undefined : 1;
};
