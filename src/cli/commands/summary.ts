import { createModel, type LayerRow, layerTable, modelInfo } from "../../models/index.ts";
import { deployForm } from "../../reparam/index.ts";
import { fmtBytes } from "../../tensor/index.ts";
import type { Run } from "../table.ts";
import { grouped, textTable } from "../text-table.ts";
import { modelOptionsOf } from "../weights.ts";

/** Layers of an architecture, both forms side by side. */
export const run: Run<"summary"> = async ({
  args: { arch },
  options: { depth, numClasses, imageSize, modelOption },
  io,
}) => {
  const { name, preprocessing } = modelInfo(arch);
  const options = {
    ...modelOptionsOf(modelOption),
    ...(numClasses && { numClasses }),
    ...(imageSize && { imageSize }),
  };
  const inputShape = [1, ...preprocessing(options).inputSize];
  const model = createModel(arch, options);
  const [train, deploy] = [model, deployForm(model)].map((form) => layerTable(form, inputShape, depth));
  const merged = new Map(deploy.map((row) => [row.path, row]));
  io.result({ name, inputShape, train, deploy }, () => {
    const rows = train.map((row) => line(row, merged.get(row.path)));
    const heading = ["layer (type)", "output shape", "parameters", "deploy", "mult-adds", "deploy"];
    const total = (r: LayerRow): string =>
      `${grouped(r.parameters)} parameters (${fmtBytes(4 * r.parameters)} in float32), ${(r.macs / 1e9).toFixed(3)} G multiply-adds`;
    return [
      textTable([heading, ...rows], "llrrrr"),
      "",
      `training form  ${total(train[0])}`,
      `deploy form    ${total(deploy[0])}`,
    ].join("\n");
  });
};

const line = (row: LayerRow, deploy: LayerRow | undefined): string[] => [
  `${"  ".repeat(row.depth)}${row.path.split(".").at(-1) || "network"} (${row.type})`,
  row.outputShape ? `[${row.outputShape.join(", ")}]` : "",
  grouped(row.parameters),
  deploy ? grouped(deploy.parameters) : "merged",
  grouped(row.macs),
  deploy ? grouped(deploy.macs) : "merged",
];
