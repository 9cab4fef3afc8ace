import { ConvBn } from "../blocks/index.ts";
import { must } from "../errors.ts";
import { cloneWith, mapModules, type Net, type Parameter } from "../nn/index.ts";
import { Tensor } from "../tensor/index.ts";

const withValues = <P extends Parameter>(p: P, values: Float64Array): P => {
  const made = p.copy();
  made.set(Tensor.of(p.dtype, p.shape, values));
  return made;
};

/**
 * The network with its compactors taken into convolutions and batch norms: of the same class and keys as before ResRep, in
 * training form, so that it can be trained on, pruned and merged. In evaluation mode it computes the same.
 *
 * With s = γ / √(σ² + ε), convolution W and compactor Q, the compactor's output is Q(s ∘ (W x − μ) + β) = u − m + Qβ where
 * u = (Q · s ∘ W) x and m = Q(s ∘ μ). That is a batch norm of a · u with running mean a · m, any running variance v, weight
 * √(v + ε) / a and bias Qβ. For v the sum of squares a² · Q² · (s² σ²) is taken, what the variance is if channels do not
 * correlate; and a gives each filter the norm that it had, so that training on moves it as before.
 */
export function foldCompactors<N extends Net>(net: N): N {
  net.initialize();
  return mapModules(net, {
    module: (m) => (m instanceof ConvBn && m.compactor ? folded(m) : undefined),
  });
}

function folded(layer: ConvBn): ConvBn {
  const { conv, bn, compactor } = layer;
  must(
    bn && !conv.bias && compactor,
    "resrep/layer",
    () => "resrep: a compactor after a convolution without batch norm cannot be taken in. Merge the network instead.",
    "model",
  );
  const q = compactor.pwc.weight.data.toFloat64();
  const [weight, gamma, beta, mean, variance] = [conv.weight, bn.weight, bn.bias, bn.runningMean, bn.runningVar].map(
    (p) => p.data.toFloat64(),
  );
  const size = gamma.length;
  const perFilter = weight.length / size;
  const scale = gamma.map((g, o) => g / Math.sqrt(variance[o] + bn.eps));
  const next = {
    weight: new Float64Array(weight.length),
    gamma: new Float64Array(size),
    beta: new Float64Array(size),
    mean: new Float64Array(size),
    variance: new Float64Array(size),
  };
  for (let j = 0; j < size; j++) {
    for (let o = 0; o < size; o++) {
      const factor = q[j * size + o];
      const scaled = factor * scale[o];
      next.beta[j] += factor * beta[o];
      next.mean[j] += scaled * mean[o];
      next.variance[j] += scaled ** 2 * variance[o];
      for (let i = 0; i < perFilter; i++) next.weight[j * perFilter + i] += scaled * weight[o * perFilter + i];
    }
    const norm = (values: Float64Array): number => Math.hypot(...values.subarray(j * perFilter, (j + 1) * perFilter));
    const a = norm(weight) / norm(next.weight);
    const rescale = Number.isFinite(a) && a > 0 ? a : 1;
    for (let i = 0; i < perFilter; i++) next.weight[j * perFilter + i] *= rescale;
    next.mean[j] *= rescale;
    // As the file rounds it, so that the two cancel.
    next.variance[j] = Math.fround(rescale ** 2 * next.variance[j]);
    next.gamma[j] = Math.sqrt(next.variance[j] + bn.eps) / rescale;
  }
  return cloneWith(layer, {
    compactor: undefined,
    conv: cloneWith(conv, { weight: withValues(conv.weight, next.weight) }),
    bn: cloneWith(bn, {
      weight: withValues(bn.weight, next.gamma),
      bias: withValues(bn.bias, next.beta),
      runningMean: withValues(bn.runningMean, next.mean),
      runningVar: withValues(bn.runningVar, next.variance),
    }),
  });
}
