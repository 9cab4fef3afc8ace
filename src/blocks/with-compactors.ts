import { listed, must, nearest } from "../errors.ts";
import { cloneWith, mapModules, type Net } from "../nn/index.ts";
import { Compactor } from "./compactor.ts";
import { ConvBn } from "./conv-bn.ts";

/**
 * The network with a {@link Compactor} in these layers, the identity at first, so that it computes what it did.
 *
 * @param layers  paths of {@link ConvBn} layers of one group
 * @throws `resrep/layer` for a path where there is no such layer
 */
export function withCompactors<N extends Net>(net: N, layers: readonly string[]): N {
  const eligible = new Map(
    [...net.modules()].filter(([, m]) => m instanceof ConvBn && !m.compactor && (m.conv.options.groups ?? 1) === 1),
  );
  for (const layer of layers)
    must(
      eligible.has(layer),
      "resrep/layer",
      () =>
        `resrep: ${layer} is no convolution of one group with a batch norm that a compactor could follow. Did you mean ${listed(nearest(layer, [...eligible.keys()]))}?`,
      "usage",
    );
  const made = mapModules(net, {
    module: (m, path) => {
      if (!layers.includes(path) || !(m instanceof ConvBn)) return undefined;
      const compactor = new Compactor(m.conv.weight.shape[0]);
      return cloneWith(m, { compactor: Object.assign(compactor, { training: m.training }) });
    },
  });
  return made;
}
