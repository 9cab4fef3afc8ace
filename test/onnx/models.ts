import fc from "fast-check";
import type { AttributeValue, OnnxModel, OnnxNode, OnnxValueInfo } from "../../src/onnx/index.ts";
import { type DType, dtypes, sizeOf, Tensor, tensorBytes, tensorFromBytes } from "../../src/tensor/index.ts";

const dtype = fc.constantFrom(...(Object.keys(dtypes) as DType[]));

export const tensor: fc.Arbitrary<Tensor> = fc
  .record({ dtype, shape: fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 4 }) })
  .chain(({ dtype, shape }) => {
    const n = sizeOf(shape) * dtypes[dtype].bytes;
    const bits = fc.uint8Array({ minLength: n, maxLength: n });
    return bits.map((bytes) => tensorFromBytes(dtype, shape, Uint8Array.from(bytes)));
  });

const text = fc.string({ unit: "binary", maxLength: 12 });
const int = fc.maxSafeInteger();
const bigInt = fc.bigInt({ min: 2n ** 53n, max: 2n ** 63n - 1n });
const float = fc.float();

/** Attribute values in the form in which they are read back. */
const attribute: fc.Arbitrary<AttributeValue> = fc.oneof(
  int,
  bigInt,
  bigInt.map((v) => -v - 1n),
  text,
  fc.array(int, { maxLength: 5 }),
  fc.array(bigInt, { minLength: 1, maxLength: 3 }),
  fc.array(text, { minLength: 1, maxLength: 3 }),
  tensor,
  fc.record({ float }),
  fc.record({ floats: fc.array(float, { maxLength: 4 }) }),
);

const node: fc.Arbitrary<OnnxNode> = fc.record(
  {
    opType: fc.string({ minLength: 1, maxLength: 8 }),
    inputs: fc.array(text, { maxLength: 3 }),
    outputs: fc.array(text, { maxLength: 2 }),
    name: text,
    attrs: fc.dictionary(text, attribute, { maxKeys: 4, noNullPrototype: true }),
    domain: fc.constantFrom("com.microsoft", "example"),
    doc: fc.string({ minLength: 1 }),
  },
  { requiredKeys: ["opType", "inputs", "outputs", "name", "attrs"] },
);

const valueInfo = (prefix: string): fc.Arbitrary<OnnxValueInfo[]> =>
  fc
    .array(
      fc.record(
        {
          dtype,
          shape: fc.array(fc.oneof(fc.nat(), fc.string({ maxLength: 5 })), { maxLength: 5 }),
        },
        { requiredKeys: ["dtype"] },
      ),
      { minLength: 1, maxLength: 3 },
    )
    .map((infos) => infos.map((info, i) => ({ name: `${prefix}${i}`, ...info })));

export const model: fc.Arbitrary<OnnxModel> = fc.record({
  nodes: fc.array(node, { maxLength: 5 }),
  inputs: valueInfo("in"),
  outputs: valueInfo("out"),
  valueInfo: valueInfo("mid"),
  initializers: fc
    .dictionary(text, tensor, { maxKeys: 4 })
    .map((r) => new Map(Object.entries(r).map(([k, v]) => [`w${k}`, v]))),
  opset: fc.integer({ min: 13, max: 22 }),
  domains: fc.constant({ "com.microsoft": 1, example: 3 }),
  metadata: fc.dictionary(fc.string(), text, { minKeys: 1, maxKeys: 3, noNullPrototype: true }),
  name: fc.string({ minLength: 1 }),
  producer: fc.record({ name: fc.string({ minLength: 1 }), version: fc.string() }),
});

/** A tensor as plain data whose comparison tells NaN patterns and signed zeros apart. */
const bits = (t: Tensor) => ({ dtype: t.dtype, shape: [...t.shape], bytes: [...tensorBytes(t)] });

/** The model with all values read, for comparison. */
export const plain = (model: OnnxModel) => ({
  ...model,
  initializers: [...model.initializers].map(([name, source]) => [name, bits(source.readSync())]),
  nodes: model.nodes.map((n) => ({
    ...n,
    attrs: Object.entries(n.attrs).map(([key, value]) => [key, value instanceof Tensor ? bits(value) : value]),
  })),
});

/** y = relu(x * w + b) for x `[batch, 2]`. */
export const gemmRelu = (
  w = Tensor.float32([2, 3], [1, 2, 3, 4, 5, 6]),
  b = Tensor.float32([3], [-8, 0, 0.5]),
): OnnxModel => ({
  nodes: [
    { opType: "Gemm", name: "fc", inputs: ["x", "w", "b"], outputs: ["h"], attrs: { alpha: { float: 1 }, transB: 0 } },
    { opType: "Relu", name: "act", inputs: ["h"], outputs: ["y"], attrs: {} },
  ],
  inputs: [{ name: "x", dtype: "float32", shape: ["batch", 2] }],
  outputs: [{ name: "y", dtype: "float32", shape: ["batch", 3] }],
  initializers: new Map([
    ["w", w],
    ["b", b],
  ]),
  valueInfo: [{ name: "h", dtype: "float32", shape: ["batch", 3] }],
  opset: 17,
  metadata: { arch: "test" },
  name: "gemm",
  producer: { name: "repmlp", version: "1" },
});
