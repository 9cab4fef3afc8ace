import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { writeMetadata } from "../../src/inference/index.ts";
import { saveOnnx } from "../../src/inference/node/index.ts";
import { Tensor } from "../../src/tensor/index.ts";

/** Animals and their colours. */
const colours = {
  cat: [255, 0, 0],
  cow: [255, 255, 255],
  dog: [0, 255, 0],
  fox: [0, 0, 255],
  owl: [0, 0, 0],
} as const;

export type Animal = keyof typeof colours;

/** A picture of 8 x 8 pixels in the colour of the animal. */
export const picture = (animal: Animal): Uint8Array =>
  Uint8Array.from([...new TextEncoder().encode("P6 8 8 255\n"), ...Array(64).fill(colours[animal]).flat()]);

/** Writes files below a folder: pictures of animals, or bytes. */
export function writeFiles(folder: string, files: Readonly<Record<string, Animal | Uint8Array>>): string {
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), typeof content === "string" ? picture(content) : content);
  }
  return folder;
}

/** An ONNX file that knows these animals by their colours; its outputs are in this order, and may bear names. */
export async function writeColourModel(path: string, animals: readonly Animal[], labels?: readonly string[]) {
  const preprocessing = { inputSize: [3, 8, 8], resize: [8, 8], mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] } as const;
  const signs = animals.flatMap((animal) => colours[animal].map((v) => v / 127.5 - 1));
  await saveOnnx(path, {
    opset: 17,
    inputs: [{ name: "x", dtype: "float32", shape: ["batch", 3, 8, 8] }],
    outputs: [{ name: "y", dtype: "float32", shape: ["batch", animals.length] }],
    nodes: [
      { opType: "GlobalAveragePool", name: "pool", inputs: ["x"], outputs: ["p"], attrs: {} },
      { opType: "Flatten", name: "flat", inputs: ["p"], outputs: ["f"], attrs: { axis: 1 } },
      { opType: "Gemm", name: "fc", inputs: ["f", "w"], outputs: ["y"], attrs: { transB: 1 } },
    ],
    initializers: new Map([["w", Tensor.float32([animals.length, 3], Float32Array.from(signs))]]),
    metadata: writeMetadata({ preprocessing, form: "deploy", ...(labels && { labels }) }),
  });
}
