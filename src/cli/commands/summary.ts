import { createModel, type LayerRow, layerTable, modelInfo } from "../../models/index.ts";
import { deployForm } from "../../reparam/index.ts";
import { fmtBytes } from "../../tensor/index.ts";
import type { Call, Run } from "../table.ts";
import { grouped, textTable } from "../text-table.ts";
import { modelOptionsOf } from "../weights.ts";

/** Layers of an architecture, both forms side by side; or of a pruned network, before and after. */
export const run: Run<"summary"> = async (call) => {
  const {
    args: { arch },
    options: { depth, numClasses, imageSize, modelOption },
    io,
  } = call;
  if (/\.(safetensors|pth|pt|th|ckpt|bin)$/i.test(arch)) return await ofFile(call);
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
    return [
      textTable([heading, ...rows], "llrrrr"),
      "",
      `training form  ${totalOf(train[0])}`,
      `deploy form    ${totalOf(deploy[0])}`,
    ].join("\n");
  });
  return undefined;
};

/** A checkpoint's layers; of a pruned one beside those of the network that it was. */
async function ofFile({ args: { arch: path }, options, io }: Call<"summary">): Promise<undefined> {
  const { openModelFile } = await import("../../inference/node/open-model.ts");
  const { numClasses, imageSize, modelOption, depth } = options;
  const model = modelOptionsOf(modelOption);
  using opened = await openModelFile(path, {
    ...{ numClasses, imageSize },
    ...(modelOption.length && { model }),
  });
  const { arch, form, net, found, preprocessing } = opened;
  const { prunedShapes: _, ...own } = opened.options;
  const whole = createModel(arch, { ...own, numClasses: found.numClasses });
  const inputShape = [1, ...preprocessing.inputSize];
  const [before, after] = [form === "train" ? whole : deployForm(whole), net].map((one) =>
    layerTable(one, inputShape, depth),
  );
  const left = new Map(after.map((row) => [row.path, row]));
  io.result({ name: arch, form, inputShape, before, after }, () => {
    const shape = (row: LayerRow | undefined): string => (row?.outputShape ? `[${row.outputShape.join(", ")}]` : "");
    const rows = before.map((row) => {
      const now = left.get(row.path);
      const counts = [row.parameters, now?.parameters ?? 0, row.macs, now?.macs ?? 0].map((n) => grouped(n));
      return [nameOf(row), shape(row), shape(now), ...counts];
    });
    const heading = [
      "layer (type)",
      "output shape",
      "in the file",
      "parameters",
      "in the file",
      "mult-adds",
      "in the file",
    ];
    return [
      textTable([heading, ...rows], "lllrrrr"),
      "",
      `${arch}  ${totalOf(before[0])}`,
      `the file  ${totalOf(after[0])}`,
    ].join("\n");
  });
  return undefined;
}

const nameOf = (row: LayerRow): string =>
  `${"  ".repeat(row.depth)}${row.path.split(".").at(-1) || "network"} (${row.type})`;

const totalOf = (r: LayerRow): string =>
  `${grouped(r.parameters)} parameters (${fmtBytes(4 * r.parameters)} in float32), ${(r.macs / 1e9).toFixed(3)} G multiply-adds`;

const line = (row: LayerRow, deploy: LayerRow | undefined): string[] => [
  nameOf(row),
  row.outputShape ? `[${row.outputShape.join(", ")}]` : "",
  grouped(row.parameters),
  deploy ? grouped(deploy.parameters) : "merged",
  grouped(row.macs),
  deploy ? grouped(deploy.macs) : "merged",
];
