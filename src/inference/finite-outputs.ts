import { RepmlpError } from "../errors.ts";
import { type Net, traceModel } from "../nn/index.ts";
import type { OnnxModel } from "../onnx/index.ts";
import type { CompileOptions } from "../runtime/index.ts";
import { Tensor } from "../tensor/index.ts";
import { mustHaveFiniteWeights } from "./onnx-weights.ts";

const allNumbers = ({ data }: Tensor): boolean => (data as Float32Array).every(Number.isFinite);

/**
 * Throws unless outputs are finite. Weights that are no numbers were refused when a checkpoint was opened; those of an ONNX
 * model are looked at now. Otherwise what comes here grew beyond what the element type holds on the way; the layer is named
 * where the network is known.
 *
 * @param where  the file, for messages
 * @param source  the network, or the ONNX model
 * @throws RepmlpError `inference/not-finite`
 */
export async function mustBeFinite(
  output: Tensor,
  where: string,
  images: Tensor,
  source?: Net | OnnxModel,
  options: CompileOptions = {},
): Promise<void> {
  if (allNumbers(output)) return;
  const model = source && "nodes" in source ? source : undefined;
  if (model) await mustHaveFiniteWeights(model, where);
  const net = source && "nodes" in source ? undefined : source;
  const value = (output.data as Float32Array).find((v) => !Number.isFinite(v));
  const row = Math.floor(
    (output.data as Float32Array).findIndex((v) => !Number.isFinite(v)) / (output.size / output.shape[0]),
  );
  const one = images.size / images.shape[0];
  const image = (images.data as Float32Array<ArrayBuffer>).slice(row * one, (row + 1) * one);
  const layer =
    net &&
    (await firstBeyond(net, new Tensor("float32", [1, ...images.shape.slice(1)], image), options).catch((error) => {
      // The weights may be gone by now; the network that was made of them is not.
      if (error instanceof RepmlpError && error.code === "checkpoint/closed") return undefined;
      throw error;
    }));
  throw new RepmlpError(
    "inference/not-finite",
    `${where}: the network's output is ${value}${
      layer === undefined ? "" : `; layer ${layer} is the first whose output is not finite`
    }. Its weights are finite, but their products are beyond what float32 holds; give other weights.`,
    "model",
  );
}

/** Path of the first layer, in order of computation, with an output beyond `limit`; the inner ones before the outer. */
export async function firstBeyond(
  net: Net,
  image: Tensor,
  options: CompileOptions = {},
  limit = Number.MAX_VALUE,
): Promise<string | undefined> {
  const { compile } = await import("../runtime/index.ts");
  const { layers, names } = traceModel(net, image.shape);
  const paths = [...layers.keys()];
  const outputs = Object.fromEntries([...layers.values()].map((value, i) => [`layer${i}`, value]));
  const program = await compile({ outputs }, { ...options, names });
  const results = await program.run({ input: image });
  await program.dispose();
  // A comparison that NaN fails.
  return paths.find((_, i) => !(results[`layer${i}`].data as Float32Array).every((v) => Math.abs(v) <= limit));
}
