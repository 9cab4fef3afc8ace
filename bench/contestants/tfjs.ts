/*
 * TensorFlow.js on its WebAssembly backend. In Node that backend has SIMD but one thread (it makes threads of Web
 * Workers and says so: WASM_HAS_MULTITHREAD_SUPPORT is false there). In the page it has one thread too: its threaded build hung there once bundled.
 *
 * The backend has no gradient of a convolution's filter (Conv2DBackpropFilter), so the step gives it one: a convolution
 * of the input with the output's gradient, batch and channels swapped.
 */

import * as tf from "@tensorflow/tfjs";
import { setThreadsCount, setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import { bnEpsilon, type ConvUnitOptions, convUnit, momentum, weightDecay } from "./conv-unit.ts";
import { learningRate, meanSize } from "./networks.ts";
import type { Prepared, Tasks } from "./task.ts";

/** `wasmFolder` is where a page finds the backend's binaries; Node finds them itself. */
type TfOptions = ConvUnitOptions & { readonly wasmFolder?: string };

async function start({ threads, wasmFolder }: TfOptions): Promise<void> {
  if (wasmFolder) {
    setWasmPaths(wasmFolder);
    // Bundled, the threaded build never gets ready: its workers do not start.
    tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
  } else setThreadsCount(threads);
  await tf.setBackend("wasm");
  await tf.ready();
}

/** Weights and batch in TensorFlow's order: NHWC and HWIO. */
function unitOf(options: TfOptions) {
  const { weights, images, labels } = convUnit(options);
  const vector = (key: Exclude<keyof typeof weights, "conv.weight">): tf.Tensor1D =>
    tf.tensor1d(weights[key].data as Float32Array);
  const { batch, channels: c, size } = options;
  return {
    x: tf.transpose(tf.tensor4d(images.data as Float32Array, [batch, c, size, size]), [0, 2, 3, 1]) as tf.Tensor4D,
    kernel: tf.transpose(tf.tensor4d(weights["conv.weight"].data as Float32Array, [c, c, 3, 3]), [2, 3, 1, 0]),
    gamma: vector("bn.weight"),
    beta: vector("bn.bias"),
    mean: vector("bn.running_mean"),
    variance: vector("bn.running_var"),
    targets: tf.oneHot(tf.tensor1d(labels, "int32"), c) as tf.Tensor2D,
  };
}

const conv = tf.customGrad(((x: tf.Tensor4D, kernel: tf.Tensor4D, save: tf.GradSaveFunc) => {
  save([x, kernel]);
  const gradFunc = (dy: tf.Tensor4D, [x, kernel]: tf.Tensor4D[]): tf.Tensor4D[] => {
    const flipped = tf.conv2d(
      tf.transpose(x, [3, 1, 2, 0]) as tf.Tensor4D,
      tf.transpose(dy, [1, 2, 0, 3]) as tf.Tensor4D,
      1,
      1,
    );
    return [tf.conv2dTranspose(dy, kernel, x.shape, 1, "same"), tf.transpose(flipped, [1, 2, 0, 3]) as tf.Tensor4D];
  };
  return { value: tf.conv2d(x, kernel, 1, "same"), gradFunc };
}) as Parameters<typeof tf.customGrad>[0]) as (x: tf.Tensor4D, kernel: tf.Tensor4D) => tf.Tensor4D;

async function tfjsTrain(options: TfOptions): Promise<Prepared> {
  await start(options);
  const { x, targets, ...unit } = unitOf(options);
  const parameters = [unit.kernel, unit.gamma, unit.beta].map((t) => tf.variable(t));
  const velocities = parameters.map((p) => tf.variable(tf.zerosLike(p)));
  const running = [unit.mean, unit.variance].map((t) => tf.variable(t));
  const count = options.batch * options.size ** 2;
  const step = async (): Promise<number> => {
    const loss = tf.tidy(() => {
      const statistics: tf.Tensor[] = [];
      const lossOf = (kernel: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor): tf.Scalar => {
        const y = conv(x, kernel as tf.Tensor4D);
        const mean = tf.mean(y, [0, 1, 2]);
        const centred = tf.sub(y, mean);
        const variance = tf.mean(tf.square(centred), [0, 1, 2]);
        // The gradient's scope would free them.
        statistics.push(tf.keep(tf.clone(mean)), tf.keep(tf.mul(variance, count / (count - 1))));
        const scale = tf.mul(gamma, tf.rsqrt(tf.add(variance, bnEpsilon)));
        const logits = tf.mean(tf.relu(tf.add(tf.mul(centred, scale), beta)), [1, 2]);
        return tf.neg(tf.mean(tf.sum(tf.mul(tf.logSoftmax(logits), targets), -1)));
      };
      const { value, grads } = tf.valueAndGrads(lossOf as (...args: tf.Tensor[]) => tf.Scalar)(parameters);
      for (const [i, p] of parameters.entries()) {
        const decayed = tf.add(grads[i], tf.mul(p, weightDecay));
        velocities[i].assign(tf.add(tf.mul(velocities[i], momentum), decayed));
        p.assign(tf.sub(p, tf.mul(velocities[i], learningRate)));
      }
      for (const [i, r] of running.entries()) r.assign(tf.add(tf.mul(r, 0.9), tf.mul(statistics[i], 0.1)));
      tf.dispose(statistics);
      return value;
    });
    const [value] = await loss.data();
    loss.dispose();
    return value;
  };
  return { facts: { check: await step() }, run: step };
}

async function tfjsInfer(options: TfOptions): Promise<Prepared> {
  await start(options);
  const { x, kernel, gamma, beta, mean, variance } = unitOf(options);
  const run = async (): Promise<Float32Array> => {
    const y = tf.tidy(() => {
      const normal = tf.batchNorm(
        tf.conv2d(x, kernel as tf.Tensor4D, 1, "same"),
        mean,
        variance,
        beta,
        gamma,
        bnEpsilon,
      );
      return tf.mean(tf.relu(normal), [1, 2]);
    });
    const values = await y.data();
    y.dispose();
    return values as Float32Array;
  };
  return { facts: { check: meanSize({ data: await run() }) }, run };
}

export const tfjsTasks: Tasks = { tfjsTrain, tfjsInfer };
