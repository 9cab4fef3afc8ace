import { decodeOnnx } from "../../src/onnx/index.ts";
import {
  ConvBnRelu,
  compileModel,
  type Device,
  Learner,
  Module,
  nn,
  oneHotTargets,
  ops,
  sgd,
  Tensor,
  type Value,
} from "../../src/web.ts";

/*
 * What tests call in the page's own thread: memory is counted where it is allocated, so this must be loaded before the
 * runtime.
 */

const memories = new Set<WebAssembly.Memory>();
WebAssembly.Memory = class extends WebAssembly.Memory {
  constructor(descriptor: WebAssembly.MemoryDescriptor) {
    super(descriptor);
    memories.add(this);
  }
};

/** Bytes of device buffers that were created and not destroyed. */
let deviceBytes = 0;
if ("GPUDevice" in globalThis) {
  const { createBuffer } = GPUDevice.prototype;
  const { destroy } = GPUBuffer.prototype;
  const live = new WeakSet<GPUBuffer>();
  GPUDevice.prototype.createBuffer = function (descriptor) {
    const buffer = createBuffer.call(this, descriptor);
    live.add(buffer);
    deviceBytes += buffer.size;
    return buffer;
  };
  GPUBuffer.prototype.destroy = function () {
    if (live.delete(this)) deviceBytes -= this.size;
    return destroy.call(this);
  };
}

class Net extends Module {
  readonly stem = new ConvBnRelu(1, 8, { kernelSize: 3, padding: 1 });
  readonly linear = new nn.Linear(8, 2);

  forward(x: Value): Value {
    return this.linear.forward(ops.globalAvgPool(this.stem.forward(x)));
  }
}

export interface Footprint {
  /** Size of the runtime's memory in bytes; it never shrinks. */
  readonly wasm: number;
  /** Bytes of live WebGPU buffers. */
  readonly device: number;
}

/** Compiles a training step, takes two steps and disposes of it, `times` times; returns what stays allocated. */
async function trainRepeatedly(device: Device, times: number): Promise<Footprint> {
  const images = Tensor.full("float32", [64, 1, 14, 14], 0.5);
  const targets = oneHotTargets(new Uint8Array(64), 2);
  for (let i = 0; i < times; i++) {
    const learner = new Learner(new Net().initialize(1), { optimizer: sgd({ momentum: 0.9 }), device });
    for (let step = 0; step < 2; step++) await learner.train(images, targets, 0.01);
    await learner.dispose();
  }
  return { wasm: [...memories].reduce((sum, { buffer }) => sum + buffer.byteLength, 0), device: deviceBytes };
}

/** Runs the ONNX model at `modelUrl` with the float32 values at `inputUrl`; what it gives, as plain numbers. */
async function runModel(
  modelUrl: string,
  inputUrl: string,
  shape: readonly number[],
): Promise<{ readonly shape: readonly number[]; readonly values: number[] }[]> {
  const bytesOf = async (url: string): Promise<ArrayBuffer> => (await fetch(url)).arrayBuffer();
  const model = decodeOnnx(new Uint8Array(await bytesOf(modelUrl)));
  await using program = await compileModel(model);
  const input = new Tensor("float32", shape, new Float32Array(await bytesOf(inputUrl)));
  const outputs = await program.run({ [model.inputs[0].name]: input });
  return model.outputs.map(({ name }) => ({
    shape: outputs[name].shape,
    values: [...outputs[name].toFloat64()],
  }));
}

const tools = { runModel, trainRepeatedly };
export type Tools = typeof tools;
Object.assign(globalThis, tools);
