import { pruneFile } from "../../prune/node/prune-file.ts";
import { registerNode } from "../../runtime/node/platform.ts";
import type { Run } from "../table.ts";
import { grouped, textTable } from "../text-table.ts";
import { weightsOptions } from "../weights.ts";

/** Cuts channels out of a checkpoint or an ONNX model: a thin call of {@link pruneFile}. */
export const run: Run<"prune"> = async ({ args: { load, save }, options, io }) => {
  registerNode();
  const { method, flops, layers, atLeast, seed, output, imageSize } = options;
  const result = await pruneFile(load, save, {
    ...{ method, flops, atLeast, seed, open: weightsOptions(options) },
    ...(layers.length && { layers }),
    onnx: { ...(output !== undefined && { output }), ...(imageSize && { imageShape: [3, imageSize, imageSize] }) },
  });
  const { groups, fixed, macs, parameters } = result;
  const change = ([before, after]: readonly [number, number]): string =>
    `${grouped(before)} → ${grouped(after)} (${((100 * after) / before).toFixed(1)} %)`;
  io.result({ type: "result", load, save, ...result }, () =>
    [
      textTable([
        ["channels of", "layers", "before", "after"],
        ...groups.map(({ name, layers: n, before, after }) => [name, String(n), String(before), String(after)]),
      ]),
      "",
      ...fixed.map(({ key, count, reason }) => `${key}: ${count} stay, since ${reason}`),
      `multiply-adds  ${change(macs)}`,
      `parameters     ${change(parameters)}`,
      `weights        ${save}`,
      `fine-tune with: repmlp train DATA --recipe fine-tune --init ${save}`,
    ].join("\n"),
  );
  return undefined;
};
