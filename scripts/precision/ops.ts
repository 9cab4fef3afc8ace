import {
  avgPool2d,
  batchNorm,
  batchNormTrain,
  conv2d,
  crossEntropy,
  globalAvgPool,
  linear,
  logSoftmax,
  maxPool2d,
  mul,
  pointwiseNormTrain,
  readOnnx,
  softmax,
  type Value,
} from "../../src/graph/index.ts";
import { sizeOf } from "../../src/tensor/index.ts";

type Values = Readonly<Record<string, Value>>;
/** Options of a case; each op reads its own. */
export interface OpOptions {
  readonly stride?: number;
  readonly padding?: number;
  readonly groups?: number;
  readonly kernelSize?: number;
  readonly labelSmoothing?: number;
}

/** What an op computes: `y` and, of norms, the statistics as the running ones take them. */
export type Build = (values: Values, options: OpOptions) => Values;

/** The running variance takes the unbiased one. */
function withStatistics({ y, mean, variance }: { y: Value; mean: Value; variance: Value }): Values {
  const count = sizeOf(y.shape) / y.shape[1];
  return { y, mean, variance: mul(variance, count / (count - 1)) };
}

const window = ({ kernelSize = 1, stride, padding }: OpOptions) => ({ kernelSize, stride, padding });

/** A norm that only ONNX models bring along, read as they are. */
const fromOnnx =
  (opType: string, attrs: (values: Values, options: OpOptions) => Record<string, number | { float: number }>): Build =>
  (values, options) => {
    const inputs = Object.entries(values).map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
    const names = inputs.map(({ name }) => name);
    const node = { opType, name: opType, inputs: names, outputs: ["y"], attrs: attrs(values, options) };
    const { x } = values;
    const model = {
      ...{ nodes: [node], inputs, outputs: [{ name: "y", dtype: x.dtype, shape: x.shape }] },
      ...{ initializers: new Map(), opset: 21 },
    };
    return { y: readOnnx(model, { values: new Map(Object.entries(values)) }).outputs.get("y")! };
  };

const epsilon = { float: 1e-5 };

export const builds: Readonly<Record<string, Build>> = {
  batchNormTrain: ({ x, weight, bias }) => withStatistics(batchNormTrain(x, weight, bias)),
  batchNorm: ({ x, weight, bias, mean, variance }) => ({ y: batchNorm(x, weight, bias, mean, variance) }),
  pointwiseNormTrain: ({ x, w, weight, bias }) => withStatistics(pointwiseNormTrain(x, w, weight, bias)),
  convNormTrain: ({ x, w, weight, bias }, options) =>
    withStatistics(batchNormTrain(conv2d(x, w, options), weight, bias)),
  conv2d: ({ x, w }, options) => ({ y: conv2d(x, w, options) }),
  linear: ({ x, w, bias }) => ({ y: linear(x, w, bias) }),
  softmax: ({ x }) => ({ y: softmax(x) }),
  logSoftmax: ({ x }) => ({ y: logSoftmax(x) }),
  crossEntropy: ({ x, labels }, { labelSmoothing }) => ({ y: crossEntropy(x, labels, { labelSmoothing }) }),
  globalAvgPool: ({ x }) => ({ y: globalAvgPool(x) }),
  avgPool2d: ({ x }, options) => ({ y: avgPool2d(x, window(options)) }),
  maxPool2d: ({ x }, options) => ({ y: maxPool2d(x, window(options)) }),
  layerNorm: fromOnnx("LayerNormalization", () => ({ axis: 1, epsilon })),
  instanceNorm: fromOnnx("InstanceNormalization", () => ({ epsilon })),
  groupNorm: fromOnnx("GroupNormalization", (_, { groups = 1 }) => ({ epsilon, num_groups: groups })),
};
