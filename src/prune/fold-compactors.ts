import { ConvBn, foldNormed } from "../blocks/index.ts";
import { must } from "../errors.ts";
import { OnnxNet } from "../models/index.ts";
import { cloneWith, mapModules, type Net, type Parameter } from "../nn/index.ts";
import { Tensor } from "../tensor/index.ts";

const withValues = <P extends Parameter>(p: P, values: Float64Array): P => {
  const made = p.copy();
  made.set(Tensor.of(p.dtype, p.shape, values));
  return made;
};

/**
 * The network with its compactors taken into convolutions and batch norms: of the same class and keys as before ResRep, in
 * training form, so that it can be trained on, pruned and merged. In evaluation mode it computes the same; see
 * {@link foldNormed}.
 */
export function foldCompactors<N extends Net>(net: N): N {
  net.initialize();
  if (net instanceof OnnxNet) return net.withoutCompactors() as Net as N;
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
  const [q, weight, gamma, beta, mean, variance] = [
    compactor.pwc.weight,
    conv.weight,
    bn.weight,
    bn.bias,
    bn.runningMean,
    bn.runningVar,
  ].map((p) => p.data.toFloat64());
  const next = foldNormed({ weight, gamma, beta, mean, variance }, q, bn.eps);
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
