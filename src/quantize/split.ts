import type { IntegerRange } from "../graph/index.ts";
import type { OnnxModel, OnnxNode } from "../onnx/index.ts";
import { sizeOf, Tensor, type TensorSource } from "../tensor/index.ts";
import { dequantizeTensor, quantizeTensor, weightQuantization } from "./affine.ts";
import { decibels, squaredShare } from "./noise.ts";
import { constantsOf, nameOf } from "./plan.ts";
import { namer, used } from "./qdq.ts";

/** How much better a weight must be stored in two parts to be worth a second convolution: one bit. */
const WORTHWHILE = 6;

/**
 * Splits convolutions whose middle weights are so large that the scale of their channel spoils all others, as identity and
 * 1×1 branches leave them behind (arXiv 2312.10588): what exceeds the largest of the other weights becomes a 1×1 convolution
 * beside the kernel, with scales of its own. Only where the weight gains a bit by it.
 *
 * @returns the model, which computes the same, and the layers that were split
 */
export function splitOutliers(
  model: OnnxModel,
  range: IntegerRange,
): { readonly model: OnnxModel; readonly split: readonly string[] } {
  const constants = constantsOf(model);
  const unique = namer(model);
  const added = new Map<string, TensorSource>();
  const store = (base: string, tensor: Tensor): string => {
    const name = unique(base);
    added.set(name, tensor);
    return name;
  };
  const split: string[] = [];
  const nodes = model.nodes.flatMap((node): OnnxNode[] => {
    const weight = node.opType === "Conv" ? constants.get(node.inputs[1]) : undefined;
    if (weight?.dtype !== "float32" || weight.shape.length !== 4 || !isCentred(node, weight.shape)) return [node];
    const parts = partsOf(weight.readSync());
    if (gainOf(weight.readSync(), parts, range) < WORTHWHILE) return [node];
    split.push(nameOf(node));
    const [input, name, ...bias] = node.inputs;
    const { strides = [1, 1], group = 1 } = node.attrs;
    const [core, outliers] = [unique(`${node.outputs[0]}.core`), unique(`${node.outputs[0]}.outliers`)];
    return [
      { ...node, inputs: [input, store(`${name}.core`, parts.core), ...bias], outputs: [core] },
      {
        ...{ opType: "Conv", name: unique(`${nameOf(node)}.outliers`), outputs: [outliers] },
        inputs: [input, store(`${name}.outliers`, parts.outliers)],
        attrs: { kernel_shape: [1, 1], strides, group },
      },
      {
        opType: "Add",
        name: unique(`${nameOf(node)}.sum`),
        inputs: [core, outliers],
        outputs: node.outputs,
        attrs: {},
      },
    ];
  });
  return split.length
    ? { model: { ...model, nodes, initializers: used(nodes, model, added) }, split }
    : { model, split };
}

/** Whether an odd kernel lies in the middle of what it sees, so that a 1×1 one can stand for its middle. */
function isCentred({ attrs }: OnnxNode, [, , height, width]: readonly number[]): boolean {
  const { pads = [0, 0, 0, 0], dilations = [1, 1], auto_pad: auto = "NOTSET" } = attrs;
  const [p, d] = [pads, dilations] as unknown as readonly (readonly number[])[];
  const half = [d[0] * ((height - 1) / 2), d[1] * ((width - 1) / 2)];
  return auto === "NOTSET" && height * width > 1 && [...half, ...half].every((h, i) => h === p[i]);
}

interface Parts {
  /** With middles cut to the largest other weight of their output channel. */
  readonly core: Tensor;
  /** What was cut, `[O, C/g, 1, 1]`. */
  readonly outliers: Tensor;
}

function partsOf(weight: Tensor): Parts {
  const [outputs, perGroup, height, width] = weight.shape;
  const area = height * width;
  const middle = (area - 1) / 2;
  const core = weight.toFloat64().slice();
  const outliers = new Float64Array(outputs * perGroup);
  for (let o = 0; o < outputs; o++) {
    const start = o * perGroup * area;
    let limit = 0;
    for (let i = 0; i < perGroup * area; i++)
      if (i % area !== middle) limit = Math.max(limit, Math.abs(core[start + i]));
    for (let c = 0; c < perGroup; c++) {
      const at = start + c * area + middle;
      const kept = Math.min(limit, Math.max(-limit, core[at]));
      outliers[o * perGroup + c] = core[at] - kept;
      core[at] = kept;
    }
  }
  return { core: Tensor.float32(weight.shape, core), outliers: Tensor.float32([outputs, perGroup, 1, 1], outliers) };
}

/** Decibels that a weight gains by being stored in two parts. */
function gainOf(weight: Tensor, { core, outliers }: Parts, range: IntegerRange): number {
  const rounded = (t: Tensor): Float64Array => {
    const quantization = weightQuantization(t, { axis: 0, range });
    return dequantizeTensor(quantizeTensor(t, quantization), quantization).toFloat64();
  };
  const area = sizeOf(weight.shape.slice(2));
  const [whole, first, second] = [rounded(weight), rounded(core), rounded(outliers)];
  const middle = (area - 1) / 2;
  const together = first.map((v, i) => v + (i % area === middle ? second[Math.floor(i / area)] : 0));
  const noise = (values: Float64Array): number => squaredShare([[weight, Tensor.float32(weight.shape, values)]]);
  const [before, after] = [decibels(noise(whole)), decibels(noise(together))];
  return Number.isFinite(before) ? after - before : 0;
}
