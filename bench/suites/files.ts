import { existsSync } from "node:fs";
import { join } from "node:path";
import { formulaEntries } from "../../scripts/conformance/formula.ts";
import { createModel, deployForm, exportOnnx, openModelFile, saveCheckpointFile, saveOnnx } from "../../src/node.ts";

export const arch = "RepMLP-Res50-light-224";

/** A checkpoint of the training form with the formula's values, made at its first use. */
export const trainFile = (folder: string): Promise<string> => trainFileOf(arch, folder, "train.pth");

/** As {@link trainFile}, of any network. */
export async function trainFileOf(net: string, folder: string, name = `${net}.pth`): Promise<string> {
  const path = join(folder, name);
  if (!existsSync(path)) await saveCheckpointFile(path, formulaEntries(createModel(net)));
  return path;
}

/** The deploy form in a format by its ending, made at its first use. */
export async function deployFile(folder: string, ending: "pth" | "safetensors" | "onnx"): Promise<string> {
  const path = join(folder, `deploy.${ending}`);
  if (existsSync(path)) return path;
  if (ending !== "onnx") {
    await saveCheckpointFile(path, formulaEntries(deployForm(createModel(arch))));
    return path;
  }
  const { net, preprocessing, close } = await openModelFile(await deployFile(folder, "pth"));
  const { inputSize } = preprocessing;
  const { model } = await exportOnnx(net, {
    inputShape: inputSize,
    metadata: { arch, preprocessing },
    check: false,
  });
  await saveOnnx(path, model);
  close();
  return path;
}
