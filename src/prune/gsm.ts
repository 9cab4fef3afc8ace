import { must } from "../errors.ts";
import { abs, concat, kthLargest, mul, nonNegative, sub } from "../graph/index.ts";
import { type Module, resizedModule } from "../nn/index.ts";
import type { Tensor } from "../tensor/index.ts";
import type { UpdateRule } from "../training/index.ts";

function mustBeShare(share: number): void {
  must(
    share > 0 && share <= 1,
    "gsm/share",
    () => `gsm: the share of weights that stay must be above 0 and at most 1, got ${share}`,
    "usage",
  );
}

/** Weights of convolutions and linear layers; biases and norms have one axis. */
const isWeight = ({ shape }: { readonly shape: readonly number[] }): boolean =>
  shape.length === 2 || shape.length === 4;

/**
 * Global sparse momentum (arXiv 1909.12778, section 3.3) for the rules that follow: of all weights of two and of four axes
 * together, the `share` with the largest |w · g| keep their gradient, ties included, and the others get none, so that weight
 * decay alone moves them. To be followed by SGD with decay and a high momentum, such as 0.98. Output `gsmThreshold` `[1]`.
 *
 * @throws `gsm/share` for a share outside (0, 1], or one of less than one weight
 * @example
 * const optimizer = chain(globalSparse({ share: 0.1 }), sgd({ momentum: 0.98, weightDecay: 1e-4 }));
 */
export function globalSparse({ share }: { readonly share: number }): UpdateRule {
  mustBeShare(share);
  return {
    name: "globalSparse",
    settings: { share },
    apply: ({ parameters, gradients }) => {
      const metrics = parameters.map((p, i) => (isWeight(p) ? abs(mul(p.value, gradients[i])) : undefined));
      const all = concat(
        metrics.filter((m) => m !== undefined),
        0,
      );
      const threshold = kthLargest(all, countOf(share, all.shape[0]));
      return {
        gradients: gradients.map((g, i) => {
          const metric = metrics[i];
          return metric ? mul(g, nonNegative(sub(metric, threshold))) : g;
        }),
        outputs: { gsmThreshold: threshold },
      };
    },
  };
}

function countOf(share: number, all: number): number {
  const count = Math.floor(share * all);
  must(
    count > 0,
    "gsm/share",
    () => `gsm: a share of ${share} of ${all} weights is less than one. Choose at least ${1 / all}.`,
    "usage",
  );
  return count;
}

/**
 * Ends GSM: the `share` of all weights of two and of four axes with the largest absolute values stays, over all layers
 * together, and the others become zero. Of equal values at the limit all stay.
 *
 * @returns a copy of the network
 * @throws `gsm/share`
 */
export function keepLargest<M extends Module>(net: M, share: number): M {
  mustBeShare(share);
  net.initialize();
  const weights = [...net.parameters()].filter(([, p]) => isWeight(p));
  const total = weights.reduce((n, [, p]) => n + p.data.size, 0);
  const all = new Float64Array(total);
  let at = 0;
  for (const [, p] of weights) {
    all.set(p.data.toFloat64().map(Math.abs), at);
    at += p.data.size;
  }
  countOf(share, total);
  const threshold = all.sort()[Math.min(total - 1, Math.floor(total * (1 - share)))];
  const kept = (tensor: Tensor): Tensor => tensor.map((v) => (Math.abs(v) >= threshold ? v : 0));
  return resizedModule(net, new Map(weights.map(([key, p]) => [key, kept(p.data)])));
}
