import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Net } from "../../src/nn/index.ts";
import { createModel, exportOnnx, saveCheckpointFile, saveOnnx } from "../../src/node.ts";
import { randomize } from "./random-networks.ts";

const options = { widthMultiplier: 0.25 };

/** A folder with a small network of random values to prune, `whole.safetensors` and `whole.onnx`. */
export interface PrunableFiles {
  readonly arch: string;
  readonly options: typeof options;
  at(name: string): string;
  remove(): void;
}

export async function prunableFiles(arch: string): Promise<PrunableFiles> {
  const folder = mkdtempSync(join(tmpdir(), "repmlp-prune-"));
  const at = (name: string): string => join(folder, name);
  const net: Net = randomize(createModel(arch, options), 3);
  const metadata = { format: "pt", arch, options: JSON.stringify(options) };
  await saveCheckpointFile(at("whole.safetensors"), net.stateDict(), { metadata });
  const { model } = await exportOnnx(net, { inputShape: [3, 32, 32] });
  await saveOnnx(at("whole.onnx"), model);
  return { arch, options, at, remove: () => rmSync(folder, { recursive: true, force: true }) };
}
