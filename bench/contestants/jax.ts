/*
 * jax-js on its WebAssembly backend, with `jit`. In Node it has one thread (its workers are Web Workers, which Node
 * lacks); in a cross-origin isolated page as many as there are cores. `init()` without a device fails in Node, since it
 * asks `navigator` for a GPU; `init("wasm")` works.
 */
import { blockUntilReady, defaultDevice, init, jit, lax, nn, numpy as np, valueAndGrad } from "@jax-js/jax";
import type { Tensor } from "../../src/index.ts";
import { bnEpsilon, type ConvUnitOptions, convUnit, momentum, weightDecay } from "./conv-unit.ts";
import { learningRate, meanSize } from "./networks.ts";
import type { Prepared, Tasks } from "./task.ts";

const arrayOf = ({ data, shape }: Tensor): np.Array => np.array(data as Float32Array<ArrayBuffer>).reshape([...shape]);
const perChannel = (v: np.Array): np.Array => v.reshape([1, -1, 1, 1]);

async function start(options: ConvUnitOptions) {
  await init("wasm");
  defaultDevice("wasm");
  const { weights, images, labels } = convUnit(options);
  const targets = new Float32Array(options.batch * options.channels);
  for (const [i, label] of labels.entries()) targets[i * options.channels + label] = 1;
  return {
    x: arrayOf(images),
    kernel: arrayOf(weights["conv.weight"]),
    gamma: arrayOf(weights["bn.weight"]),
    beta: arrayOf(weights["bn.bias"]),
    mean: arrayOf(weights["bn.running_mean"]),
    variance: arrayOf(weights["bn.running_var"]),
    targets: np.array(targets).reshape([options.batch, options.channels]),
  };
}

type State = {
  parameters: np.Array[];
  velocities: np.Array[];
  running: np.Array[];
};

async function jaxTrain(options: ConvUnitOptions): Promise<Prepared> {
  const { x, targets, ...unit } = await start(options);
  const count = options.batch * options.size ** 2;
  // Every use of an array but its last takes a reference of its own (`ref`).
  const lossOf = (parameters: np.Array[], x: np.Array, targets: np.Array): [np.Array, np.Array[]] => {
    const [kernel, gamma, beta] = parameters;
    const y = lax.convWithGeneralPadding(x, kernel, [1, 1], "SAME");
    const mean = np.mean(y.ref, [0, 2, 3]);
    const centred = y.sub(perChannel(mean.ref));
    const variance = np.mean(np.square(centred.ref), [0, 2, 3]);
    const scale = gamma.mul(np.reciprocal(np.sqrt(variance.ref.add(bnEpsilon))));
    const active = nn.relu(centred.mul(perChannel(scale)).add(perChannel(beta)));
    const logits = np.mean(active, [2, 3]);
    const loss = np.mean(nn.logSoftmax(logits, -1).mul(targets).sum(-1)).neg();
    return [loss, [mean, variance.mul(count / (count - 1))]];
  };
  const step = jit((state: State, x: np.Array, targets: np.Array): [np.Array, State] => {
    const parameters = state.parameters.map((p) => p.ref);
    const [[loss, statistics], gradients] = valueAndGrad(lossOf, { hasAux: true })(parameters, x, targets);
    const velocities = state.velocities.map((v, i) =>
      v.mul(momentum).add(gradients[i]).add(state.parameters[i].ref.mul(weightDecay)),
    );
    return [
      loss,
      {
        parameters: state.parameters.map((p, i) => p.sub(velocities[i].ref.mul(learningRate))),
        velocities,
        running: state.running.map((r, i) => r.mul(0.9).add(statistics[i].mul(0.1))),
      },
    ];
  });
  const parameters = [unit.kernel, unit.gamma, unit.beta];
  let state: State = {
    velocities: parameters.map((p) => np.zerosLike(p.ref)),
    parameters,
    running: [unit.mean, unit.variance],
  };
  const run = async (): Promise<number> => {
    const [loss, next] = step(state, x.ref, targets.ref);
    state = await blockUntilReady(next);
    const [value] = await loss.data();
    return value;
  };
  return { facts: { check: await run() }, run };
}

async function jaxInfer(options: ConvUnitOptions): Promise<Prepared> {
  const { targets, x, ...unit } = await start(options);
  targets.dispose();
  const forward = jit(({ x, kernel, gamma, beta, mean, variance }: Record<string, np.Array>): np.Array => {
    const scale = gamma.mul(np.reciprocal(np.sqrt(variance.add(bnEpsilon))));
    const shift = beta.sub(mean.mul(scale.ref));
    const y = lax.convWithGeneralPadding(x, kernel, [1, 1], "SAME");
    return np.mean(nn.relu(y.mul(perChannel(scale)).add(perChannel(shift))), [2, 3]);
  });
  const all: Record<string, np.Array> = { x, ...unit };
  const run = async (): Promise<Float32Array> => {
    const y = forward(Object.fromEntries(Object.entries(all).map(([key, v]) => [key, v.ref])));
    return (await y.data()) as Float32Array;
  };
  return { facts: { check: meanSize({ data: await run() }) }, run };
}

export const jaxTasks: Tasks = { jaxTrain, jaxInfer };
