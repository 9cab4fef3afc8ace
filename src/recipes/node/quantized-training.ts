import { join } from "node:path";
import { saveOnnx } from "../../inference/node/index.ts";
import type { Net } from "../../nn/index.ts";
import { calibrateQuantizedNet, exportQuantized, isQuantizationRange, QuantizedNet } from "../../quantize/index.ts";
import type { Shape } from "../../tensor/index.ts";
import type { Recipe } from "../recipe.ts";
import type { KnownAtEnd, Prepared, SavedIntegers } from "./prepared.ts";

/** Name of the file in integers. */
export const integersFile = "model.int8.onnx";

/** Pictures that the file in integers is compared with the network on. */
const COMPARED = 32;

/**
 * A network that is trained as it will compute in integers, as a recipe's entry `quantize` says. Its own weights are kept,
 * and the integers beside.
 *
 * @param imageShape  `[C, H, W]`
 * @throws what {@link QuantizedNet} throws
 */
export function quantizedTraining(net: Net, settings: NonNullable<Recipe["quantize"]>, imageShape: Shape): Prepared {
  const quantized = new QuantizedNet(net, { ...settings, inputShape: imageShape });
  return {
    net: quantized,
    // A scale is no weight: decay would only change what it means.
    group: (key) => (isQuantizationRange(key) ? { weightDecay: 0, frozen: false, lrScale: 1 } : undefined),
    // Running statistics are in the kernels, which are to be the same in all processes.
    batchNormStatistics: "averaged",
    settings: { quantize: JSON.stringify(settings) },
    start: (batches, options) => calibrateQuantizedNet(quantized, batches, options),
    kept: (trained) => asQuantized(trained).net,
    save: (trained, folder, known) => saveIntegers(asQuantized(trained), folder, known),
  };
}

/** What is trained here, and copies of it. */
function asQuantized(net: Net): QuantizedNet {
  if (net instanceof QuantizedNet) return net;
  throw new Error("internal: a run for integers has trained another network");
}

async function saveIntegers(
  net: QuantizedNet,
  folder: string,
  { validation, preprocessing, arch, task, classes: labels }: KnownAtEnd,
): Promise<SavedIntegers> {
  const { images } = await validation.batch(Array.from({ length: Math.min(COMPARED, validation.length) }, (_, i) => i));
  const { model, ...result } = await exportQuantized(net, {
    compareOn: images,
    metadata: { ...(arch && { arch }), preprocessing, labels, task },
  });
  const path = join(folder, integersFile);
  await saveOnnx(path, model);
  return { path, ...result };
}
