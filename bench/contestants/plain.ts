/*
 * The graph that a plain export of the original's deploy form gives: FC3 as a grouped 1×1 `Conv`, partitions by
 * `Reshape` and `Transpose`, averages by `AveragePool`, every layer a node of its own. Written node by node from the
 * state dict, and run by the same ONNX Runtime.
 */
import { compileModel, convertToDeploy, type Net, type TensorSource } from "../../src/index.ts";
import type { AttributeValue, OnnxModel, OnnxNode } from "../../src/onnx/index.ts";
import { Tensor } from "../../src/tensor/index.ts";
import { meanSize, type NetworkOptions, networkOf } from "./networks.ts";
import type { Prepared, Tasks } from "./task.ts";

/** Height and width of a partition in the networks for 224 pixels. */
const part = 7;

class PlainWriter {
  readonly nodes: OnnxNode[] = [];
  readonly initializers: Map<string, TensorSource>;

  constructor(readonly state: ReadonlyMap<string, TensorSource>) {
    this.initializers = new Map(state);
  }

  node(opType: string, inputs: readonly string[], attrs: Readonly<Record<string, AttributeValue>> = {}): string {
    const name = `${opType}_${this.nodes.length}`;
    this.nodes.push({ opType, inputs, outputs: [name], name, attrs });
    return name;
  }

  reshape(x: string, shape: readonly number[]): string {
    const name = `shape_${shape.join("_")}`;
    this.initializers.set(name, Tensor.of("int64", [shape.length], shape));
    return this.node("Reshape", [x, name]);
  }

  conv(x: string, key: string, stride = 1, groups = 1): string {
    const [, , kernel] = this.state.get(`${key}.weight`)!.shape;
    const pad = kernel >> 1;
    return this.node("Conv", [x, `${key}.weight`, `${key}.bias`], {
      kernel_shape: [kernel, kernel],
      strides: [stride, stride],
      pads: [pad, pad, pad, pad],
      group: groups,
    });
  }

  linear(x: string, key: string): string {
    return this.node("Gemm", [x, `${key}.weight`, `${key}.bias`], { transB: 1 });
  }

  relu(x: string): string {
    return this.node("Relu", [x]);
  }

  /** `size` is height and width of the map. */
  repmlp(x: string, key: string, batch: number, size: number): string {
    const [features, perGroup] = this.state.get(`${key}.fc3.weight`)!.shape;
    const c = features / part ** 2;
    const count = size / part;
    let mixed = this.reshape(x, [batch, c, count, part, count, part]);
    if (this.state.has(`${key}.fc1_fc2.fc1.weight`)) {
      const means = this.node("AveragePool", [x], { kernel_shape: [part, part], strides: [part, part] });
      const hidden = this.relu(this.linear(this.reshape(means, [batch, c * count ** 2]), `${key}.fc1_fc2.fc1`));
      const global = this.linear(hidden, `${key}.fc1_fc2.fc2`);
      mixed = this.node("Add", [mixed, this.reshape(global, [batch, c, count, 1, count, 1])]);
    }
    const parts = this.node("Transpose", [mixed], { perm: [0, 2, 4, 1, 3, 5] });
    const flat = this.reshape(parts, [batch * count ** 2, features, 1, 1]);
    const fc3 = this.conv(flat, `${key}.fc3`, 1, features / perGroup);
    const back = this.reshape(fc3, [batch, count, count, c, part, part]);
    return this.reshape(this.node("Transpose", [back], { perm: [0, 3, 1, 4, 2, 5] }), [batch, c, size, size]);
  }
}

/** Layers of a residual block by their key, in order; those with `repmlp` are RepMLPs. */
const layersOf = (keys: readonly string[], block: string): string[] => [
  ...new Set(
    keys
      .filter((key) => key.startsWith(`${block}.`) && !key.includes(".shortcut."))
      .map((key) => key.slice(block.length + 1).split(".")[0]),
  ),
];

/** A RepMLP-ResNet in deploy form, from its state dict. */
export function plainGraph(net: Net, batch: number): OnnxModel {
  const w = new PlainWriter(new Map<string, TensorSource>([...net.state()].map(([key, p]) => [key, p.data])));
  const keys = [...w.state.keys()];
  const input = { name: "input", dtype: "float32" as const, shape: [batch, 3, 224, 224] };
  const stem = w.relu(w.conv(input.name, "stage0.0.conv", 2));
  let x = w.node("MaxPool", [stem], { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] });
  let size = 56;
  for (let stage = 1; stage <= 4; stage++)
    for (let i = 0; layersOf(keys, `stage${stage}.${i}`).length; i++) {
      const block = `stage${stage}.${i}`;
      const stride = i === 0 && stage > 1 ? 2 : 1;
      const shortcut = w.state.has(`${block}.shortcut.conv.weight`) ? w.conv(x, `${block}.shortcut.conv`, stride) : x;
      const layers = layersOf(keys, block);
      let y = x;
      for (const [at, layer] of layers.entries()) {
        const key = `${block}.${layer}`;
        if (layer.includes("repmlp")) y = w.repmlp(y, key, batch, size);
        else y = w.conv(y, `${key}.conv`, stride === 2 && w.state.get(`${key}.conv.weight`)!.shape[2] === 3 ? 2 : 1);
        if (at < layers.length - 1) y = w.relu(y);
      }
      size /= stride;
      x = w.relu(w.node("Add", [y, shortcut]));
    }
  const pooled = w.node("Flatten", [w.node("GlobalAveragePool", [x])]);
  const output = w.linear(pooled, "linear");
  const classes = w.state.get("linear.weight")!.shape[0];
  const used = new Set(w.nodes.flatMap((n) => n.inputs));
  return {
    nodes: w.nodes,
    inputs: [input],
    outputs: [{ name: output, dtype: "float32", shape: [batch, classes] }],
    initializers: new Map([...w.initializers].filter(([name]) => used.has(name))),
    opset: 17,
  };
}

/** Inference on {@link plainGraph}. */
async function plain(options: NetworkOptions): Promise<Prepared> {
  const { model, images } = networkOf(options);
  const graph = plainGraph(convertToDeploy(model.eval()), options.batch);
  const program = await compileModel(graph, { threads: options.threads });
  const run = async () => (await program.run({ input: images }))[graph.outputs[0].name];
  return { facts: { check: meanSize(await run()) }, run };
}

export const plainTasks: Tasks = { plain };
