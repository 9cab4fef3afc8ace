import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { conv2d, globalAvgPool, grad, input, mul, reduceSum, relu, type Value } from "../../src/graph/index.ts";
import { Module, nn } from "../../src/node.ts";
import { encodeOnnx } from "../../src/onnx/index.ts";
import { compile, compileStep } from "../../src/runtime/index.ts";
import { Tensor } from "../../src/tensor/index.ts";
import { sgd, trainStep } from "../../src/training/index.ts";
import { stripes, trainAndVerify } from "../../web/src/train.ts";
import { difference, feedOf } from "../graph/harness.ts";

/** Why `onnxruntime-node` has no WebGPU here, if so; found out in a process of its own, since drivers may crash. */
function missingAdapter(): string | undefined {
  const x = { name: "x", dtype: "float32", shape: [2] } as const;
  const model = encodeOnnx({
    nodes: [{ opType: "Neg", inputs: ["x"], outputs: ["y"], name: "neg", attrs: {} }],
    inputs: [x],
    outputs: [{ ...x, name: "y" }],
    initializers: new Map(),
    opset: 17,
  });
  const code = `
    require("onnxruntime-node").InferenceSession
      .create(Buffer.from(process.argv[1], "base64"), { executionProviders: ["webgpu"] })
      .then((session) => session.release())
      .catch((error) => { console.error(error.message); process.exit(1); });`;
  const { status, stderr } = spawnSync(process.execPath, ["-e", code, Buffer.from(model).toString("base64")], {
    cwd: fileURLToPath(new URL("../..", import.meta.url)),
    encoding: "utf8",
    timeout: 30_000,
  });
  return status === 0 ? undefined : stderr.trim().split("\n").at(-1) || "the process died";
}

const missing = missingAdapter();
if (missing) console.warn(`WebGPU tests in Node are skipped: ${missing}`);

/** Batch statistics and a layer: few shaders to compile. */
class Tiny extends Module {
  readonly bn = new nn.BatchNorm2d(1);
  readonly linear = new nn.Linear(1, 4);

  forward(x: Value): Value {
    return this.linear.forward(globalAvgPool(relu(this.bn.forward(x))));
  }
}

describe.skipIf(missing)("WebGPU in Node", () => {
  const deviceOnly = { extra: { session: { disable_cpu_ep_fallback: "1" } } };

  test("ten steps as on the CPU, with every node on the device", async () => {
    const [onCpu, onDevice] = [
      await trainAndVerify({ device: "cpu", steps: 10 }),
      await trainAndVerify({ device: "webgpu", steps: 10, deviceOnly: true }),
    ];
    for (const [i, loss] of onDevice.losses.entries()) expect(Math.abs(loss - onCpu.losses[i])).toBeLessThan(1e-4);
    expect(onDevice.maxRel).toBeLessThan(1e-5);
    expect(onDevice.agree).toBe(onDevice.total);
  }, 180_000);

  const lr = Tensor.float32([1], [0.02]);

  test("the state stays on the device and can be read from there", async () => {
    const states = [];
    for (const device of ["cpu", "webgpu"] as const) {
      const { images, targets } = stripes(0);
      const net = new Tiny().initialize(1).train();
      const graph = trainStep(net, { optimizer: sgd({ momentum: 0.9 }), inputShape: images.shape });
      const session = device === "webgpu" ? deviceOnly : {};
      await using program = await compileStep(graph, { device, session });
      for (let step = 0; step < 2; step++) await program.step({ input: images, targets, "scalar:lr": lr });
      const held = new Set(
        [...graph.next.keys()].map((ref) => program.state.current.get(graph.names.get(ref)!)!.location),
      );
      expect([...held]).toEqual([device === "webgpu" ? "gpu-buffer" : "cpu"]);
      states.push(await program.readState());
      program.state.dispose();
    }
    const [onCpu, onDevice] = states;
    expect([...onDevice.keys()]).toEqual([...onCpu.keys()]);
    for (const [name, value] of onCpu) expect(difference(onDevice.get(name)!, value), name).toBeLessThan(1e-4);
  }, 120_000);

  // Shapes for which the provider's own grouped kernels return wrong numbers.
  test.each([
    { name: "6 outputs per group", x: [2, 6, 7, 5], w: [12, 3, 3, 3], groups: 2, padding: 1 },
    { name: "5 outputs per group", x: [2, 9, 5, 5], w: [15, 3, 1, 1], groups: 3 },
    { name: "6 outputs per group, stride 2", x: [2, 8, 6, 7], w: [24, 2, 3, 3], groups: 4, padding: 1, stride: 2 },
    { name: "one input and two outputs per group", x: [2, 3, 5, 7], w: [6, 1, 3, 3], groups: 3, padding: 1 },
    { name: "fully connected in groups of 6", x: [5, 12, 1, 1], w: [12, 6, 1, 1], groups: 2 },
  ])("grouped convolutions and their gradients: $name", async ({ name, x, w, ...options }) => {
    const [a, b] = [input("x", x), input("w", w)];
    const y = conv2d(a, b, options);
    const weights = input("d", y.shape);
    const [dx, dw] = grad(reduceSum(mul(y, weights)), [a, b]);
    const feeds = Object.fromEntries(
      Object.entries({ x, w, d: y.shape }).map(([key, shape]) => [key, feedOf(`${name} ${key}`, { shape }, "float32")]),
    );
    const graph = { outputs: { y, dx, dw } };
    await using onCpu = await compile(graph);
    await using onDevice = await compile(graph, { device: "webgpu", session: deviceOnly });
    const [expected, actual] = [await onCpu.run(feeds), await onDevice.run(feeds)];
    for (const key of ["y", "dx", "dw"]) expect(difference(actual[key], expected[key]), key).toBeLessThan(1e-5);
  });
});
