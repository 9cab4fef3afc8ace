import { abs, mul, positive } from "../graph/index.ts";
import { type Module, resizedModule } from "../nn/index.ts";
import type { Tensor, TensorSource } from "../tensor/index.ts";
import type { UpdateRule } from "../training/index.ts";

/**
 * For the rules that follow: a weight that is zero gets no gradient, so that neither momentum nor weight decay moves it. For
 * training on after GSM, and for winning tickets.
 */
export const keepZeros = (): UpdateRule => ({
  name: "keepZeros",
  settings: {},
  apply: ({ parameters, gradients }) => ({
    gradients: parameters.map(({ shape, value }, i) =>
      shape.length < 2 ? gradients[i] : mul(gradients[i], positive(abs(value))),
    ),
  }),
});

/**
 * A network's initial weights where another one, sparse, is not zero: a winning ticket (arXiv 1803.03635; for GSM's masks
 * arXiv 1909.12778, section 4.4), to be trained with {@link keepZeros}.
 *
 * @param sparse  weights by key, of the same shapes
 */
export function ticketOf<M extends Module>(initial: M, sparse: ReadonlyMap<string, TensorSource>): M {
  initial.initialize();
  const masked = [...initial.parameters()].flatMap(([key, p]): [string, Tensor][] => {
    const mask = sparse.get(key)?.readSync().toFloat64();
    return mask && p.shape.length > 1 ? [[key, p.data.map((v, i) => (mask[i] ? v : 0))]] : [];
  });
  return resizedModule(initial, new Map(masked));
}

/** Weights of two axes and more: how many there are, and how many are zero, by key. */
export function zerosOf(net: Module): Record<string, { readonly weights: number; readonly zeros: number }> {
  return Object.fromEntries(
    [...net.parameters()]
      .filter(([, p]) => p.shape.length > 1)
      .map(([key, p]) => {
        const values = p.data.toFloat64();
        return [key, { weights: values.length, zeros: values.reduce((n, v) => n + Number(v === 0), 0) }] as const;
      }),
  );
}
