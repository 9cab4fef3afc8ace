import { mergeOnnx } from "../convert/onnx/index.ts";
import { must } from "../errors.ts";
import { intAttr, type OnnxModel, type OnnxNode } from "../onnx/index.ts";
import { Tensor, type TensorSource } from "../tensor/index.ts";
import { integerRanges, roundHalfEven } from "./affine.ts";
import { decibels, squaredShare } from "./noise.ts";
import { constantsOf, mustBeQuantizable, nameOf, planQuantization, type QuantizationPlan } from "./plan.ts";
import { integerWeight, namer, used, withoutUnreadConstants } from "./qdq.ts";

export interface QuantizeWeightsOptions {
  /**
   * `int8`: 8 bits, in blocks for matrix products, a scale per output channel for convolutions. `int4`: 4 bits in blocks for
   * matrix products, 8 for convolutions, for which runtimes have nothing smaller. `float16`: half precision.
   */
  readonly type: "int8" | "int4" | "float16";
  /** Inputs of a matrix product that share a scale: a power of two from 16. Default 32. */
  readonly blockSize?: number;
  /** Names of nodes, of their outputs or of their weights that stay in float32. */
  readonly keepFloat?: readonly string[];
  /** What to call the model in messages. */
  readonly name?: string;
}

/** A layer whose weight is stored in fewer bits. */
export interface StoredLayer {
  readonly layer: string;
  readonly operator: string;
  readonly bits: number;
  /** Signal to noise of the weight, in decibels. */
  readonly sqnr: number;
}

export interface QuantizedWeights {
  readonly model: OnnxModel;
  readonly layers: readonly StoredLayer[];
  /** Nodes with weights that stay in float32, and why. */
  readonly kept: QuantizationPlan["kept"];
  readonly notes: readonly string[];
}

/**
 * Stores the weights of an ONNX model in fewer bits and leaves activations in float32, so that nothing has to be calibrated:
 * branches and batch norms are merged first. Matrix products become `MatMulNBits`, an operator of ONNX Runtime (native, in
 * pages and elsewhere), which reads a quarter or an eighth of the bytes: what a large fully connected layer is bound by at
 * batch 1. Other weights are stored as integers or halves with a node behind them that widens them when the model is loaded.
 *
 * @throws RepmlpError what {@link quantizeOnnx} throws for models that cannot be quantized; `quantize/block`
 */
export function quantizeWeights(source: OnnxModel, options: QuantizeWeightsOptions): QuantizedWeights {
  const { type, blockSize = 32, keepFloat = [], name = "model" } = options;
  must(
    blockSize >= 16 && Number.isInteger(Math.log2(blockSize)),
    "quantize/block",
    () => `${name}: a block is a power of two from 16, got ${blockSize}.`,
    "usage",
  );
  mustBeQuantizable(source, name);
  const { kept: _, ...bare } = source;
  const { model } = mergeOnnx(bare);
  const constants = constantsOf(model);
  if (type === "float16") return halved(model, constants, name);
  const plan = planQuantization(model, keepFloat, name);
  const unique = namer(model);
  const added = new Map<string, TensorSource>();
  const store = (base: string, tensor: Tensor): string => {
    const made = unique(base);
    added.set(made, tensor);
    return made;
  };
  const layers: StoredLayer[] = [];
  const weighted = new Map(plan.weighted.map((entry) => [entry.node, entry]));
  const stored = model.nodes.flatMap((node): OnnxNode[] => {
    const entry = weighted.get(node);
    if (!entry) return [node];
    const weight = constants.get(node.inputs[1])!.readSync();
    const told = (bits: number, rounded: Tensor): void => {
      layers.push({ layer: nameOf(node), operator: node.opType, bits, sqnr: sqnrOf(weight, rounded) });
    };
    if (node.opType === "Conv") {
      const { quantization, integers, rounded } = integerWeight(entry, weight, undefined, integerRanges.symmetric8, 1);
      told(8, rounded);
      const scales = quantization.steps.map(({ scale }) => scale);
      const widened: OnnxNode = {
        opType: "DequantizeLinear",
        name: unique(`${nameOf(node)}.widened`),
        inputs: [
          store(`${node.inputs[1]}.int8`, integers),
          store(`${node.inputs[1]}.scale`, Tensor.float32([scales.length], scales)),
          store(`${node.inputs[1]}.zero_point`, Tensor.zeros("int8", [scales.length])),
        ],
        outputs: [unique(`${node.inputs[1]}.widened`)],
        attrs: { axis: entry.axis },
      };
      return [widened, { ...node, inputs: [node.inputs[0], widened.outputs[0], ...node.inputs.slice(2)] }];
    }
    const bits = type === "int8" ? 8 : 4;
    // MatMulNBits has a row of K values for each output.
    const rows = node.opType === "Gemm" && intAttr(node, "transB", 0) ? weight : transposed(weight);
    const packed = blockwise(rows, bits, blockSize);
    told(bits, node.opType === "Gemm" && intAttr(node, "transB", 0) ? packed.rounded : transposed(packed.rounded));
    const [outputs, inputs] = rows.shape;
    const [result] = node.outputs;
    const bias = node.inputs[2];
    const product: OnnxNode = {
      opType: "MatMulNBits",
      domain: "com.microsoft",
      name: node.name,
      inputs: [
        node.inputs[0],
        store(`${node.inputs[1]}.int${bits}`, packed.integers),
        store(`${node.inputs[1]}.scales`, packed.scales),
        store(`${node.inputs[1]}.zero_points`, packed.zeroPoints),
      ],
      outputs: [bias ? unique(`${result}.product`) : result],
      attrs: { K: inputs, N: outputs, bits, block_size: blockSize },
    };
    if (!bias) return [product];
    const add: OnnxNode = {
      ...{ opType: "Add", name: unique(`${nameOf(node)}.bias`), inputs: [product.outputs[0], bias], outputs: [result] },
      attrs: {},
    };
    return [product, add];
  });
  const nodes = withoutUnreadConstants(stored, model);
  const { valueInfo: __, ...rest } = model;
  return {
    model: {
      ...rest,
      nodes,
      initializers: used(nodes, model, added),
      domains: { ...model.domains, "com.microsoft": 1 },
    },
    layers,
    kept: plan.kept,
    notes: [],
  };
}

function transposed(weight: Tensor): Tensor {
  const [rows, columns] = weight.shape;
  const values = weight.toFloat64();
  return Tensor.float32(
    [columns, rows],
    Float64Array.from({ length: values.length }, (_, i) => values[(i % rows) * columns + Math.floor(i / rows)]),
  );
}

/** Shares of a block's range that are tried. */
const SHARES = [1, 0.95, 0.9, 0.85, 0.8, 0.75];

/**
 * Rows of a weight `[N, K]` in blocks of `blockSize` values with a scale and a zero point each, as MatMulNBits takes them:
 * integers `[N, blocks, blockSize · bits / 8]`, the first value in the low bits; scales `[N · blocks]`; zero points with a
 * byte's end after each row. Of some shares of a block's range the one with the least squared error is taken.
 */
export function blockwise(
  weight: Tensor,
  bits: 4 | 8,
  blockSize: number,
): { readonly integers: Tensor; readonly scales: Tensor; readonly zeroPoints: Tensor; readonly rounded: Tensor } {
  const [n, k] = weight.shape;
  const values = weight.toFloat64();
  must(values.every(Number.isFinite), "quantize/finite", () => "quantize: a weight holds NaN or an infinity", "model");
  const blocks = Math.ceil(k / blockSize);
  const perByte = 8 / bits;
  const top = 2 ** bits - 1;
  const integers = new Uint8Array((n * blocks * blockSize) / perByte);
  const scales = new Float32Array(n * blocks);
  const zeroBytes = Math.ceil(blocks / perByte);
  const zeroPoints = new Uint8Array(n * zeroBytes);
  const rounded = new Float32Array(n * k);
  const put = (bytes: Uint8Array, at: number, value: number): void => {
    bytes[Math.floor(at / perByte)] |= value << (bits * (at % perByte));
  };
  for (let row = 0; row < n; row++)
    for (let b = 0; b < blocks; b++) {
      const start = row * k + b * blockSize;
      const block = values.subarray(start, Math.min(start + blockSize, (row + 1) * k));
      const { scale, zeroPoint } = bestStep(block, top);
      const at = row * blocks + b;
      scales[at] = scale;
      put(zeroPoints.subarray(row * zeroBytes, (row + 1) * zeroBytes), b, zeroPoint);
      for (let i = 0; i < blockSize; i++) {
        // Behind the end of a row lies 0.
        const q = i < block.length ? quantized(block[i], scale, zeroPoint, top) : zeroPoint;
        put(integers, at * blockSize + i, q);
        if (i < block.length) rounded[start + i] = (q - zeroPoint) * scale;
      }
    }
  return {
    integers: new Tensor("uint8", [n, blocks, blockSize / perByte], integers),
    scales: new Tensor("float32", [n * blocks], scales),
    zeroPoints: new Tensor("uint8", [n * zeroBytes], zeroPoints),
    rounded: new Tensor("float32", [n, k], rounded),
  };
}

const quantized = (v: number, scale: number, zeroPoint: number, top: number): number =>
  Math.min(top, Math.max(0, roundHalfEven(v / scale) + zeroPoint));

function bestStep(block: Float64Array, top: number): { readonly scale: number; readonly zeroPoint: number } {
  const low = block.reduce((a, v) => Math.min(a, v), 0);
  const high = block.reduce((a, v) => Math.max(a, v), 0);
  let best = { scale: 1, zeroPoint: 0 };
  let least = Number.POSITIVE_INFINITY;
  // With 8 bits nothing is gained by a smaller range.
  for (const part of top > 15 ? SHARES.slice(0, 1) : SHARES) {
    const scale = Math.fround(((high - low) * part) / top);
    if (scale === 0) return best;
    const zeroPoint = Math.min(top, Math.max(0, roundHalfEven((-low * part) / scale)));
    let error = 0;
    for (const v of block) error += ((quantized(v, scale, zeroPoint, top) - zeroPoint) * scale - v) ** 2;
    if (error < least) [least, best] = [error, { scale, zeroPoint }];
  }
  return best;
}

const sqnrOf = (exact: Tensor, other: Tensor): number => decibels(squaredShare([[exact, other]]));

/** Smaller constants are not worth a node. */
const WORTHWHILE = 64;
/** The largest number of half precision. */
const HALF_MAX = 65504;

/** Large float32 constants as halves, and a Cast behind each. */
function halved(model: OnnxModel, constants: ReadonlyMap<string, TensorSource>, name: string): QuantizedWeights {
  const unique = namer(model);
  const halves = new Map<string, TensorSource>();
  const casts: OnnxNode[] = [];
  const layers: StoredLayer[] = [];
  const kept: { name: string; operator: string; reason: string }[] = [];
  const initializers = new Map(model.initializers);
  for (const [key, source] of model.initializers) {
    if (source.dtype !== "float32" || source.shape.reduce((n, d) => n * d, 1) < WORTHWHILE) continue;
    const tensor = source.readSync();
    const values = tensor.toFloat64();
    must(
      values.every(Number.isFinite),
      "quantize/finite",
      () => `${name}: the weight "${key}" holds NaN or an infinity. Look for it in training.`,
      "model",
    );
    if (values.some((v) => Math.abs(v) > HALF_MAX)) {
      kept.push({ name: key, operator: "initializer", reason: `it has values beyond ${HALF_MAX}` });
      continue;
    }
    const half = tensor.cast("float16");
    const stored = unique(`${key}.float16`);
    halves.set(stored, half);
    initializers.delete(key);
    casts.push({ opType: "Cast", name: unique(`${key}.widened`), inputs: [stored], outputs: [key], attrs: { to: 1 } });
    layers.push({ layer: key, operator: "initializer", bits: 16, sqnr: sqnrOf(tensor, half) });
  }
  must(
    layers.length > 0,
    "quantize/nothing",
    () => `${name}: there is nothing to store in half precision: no float32 constant of ${WORTHWHILE} values or more.`,
    "model",
  );
  const nodes = [...casts, ...model.nodes];
  const notes = constants.size > model.initializers.size ? ["constants that nodes hold stay in float32"] : [];
  return {
    model: { ...model, nodes, initializers: new Map([...initializers, ...halves]) },
    layers,
    kept,
    notes,
  };
}
