import {
  add,
  constant,
  cos,
  div,
  greater,
  linear,
  maximum,
  mul,
  neg,
  reduceSum,
  select,
  sin,
  sqrt,
  stopGradient,
  sub,
  type Value,
} from "../graph/index.ts";
import { Coefficient, Module, normal, Parameter } from "../nn/index.ts";
import type { TrainingOnly } from "../reparam/index.ts";
import { Tensor } from "../tensor/index.ts";

/** Every row at length 1: `[N, D]` → `[N, D]`. A row shorter than 1e-12 is divided by that. */
export const normalizeRows = (x: Value): Value =>
  div(x, sqrt(maximum(reduceSum(mul(x, x), 1, { keepDims: true }), 1e-24)));

/** cos(θ + m) of cos θ, also where θ + m is above π. */
function withAngle(c: Value, m: Value): Value {
  // As a product, which keeps the digits where the cosine is near 1; at 1 itself the sine's derivative has no bound.
  const sine = sqrt(maximum(mul(sub(1, c), add(1, c)), 1e-12));
  return sub(mul(c, cos(m)), mul(sine, sin(m)));
}

interface MarginRule {
  /** Defaults of the paper. */
  readonly scale: number;
  readonly margin: number;
  /** What the cosine of the picture's own identity becomes. */
  readonly own: (c: Value, m: Value) => Value;
}

const rules = {
  /** cos θ − m (arXiv 1801.05599). */
  amsoftmax: { scale: 30, margin: 0.35, own: sub },
  /** The same margin with CosFace's numbers (arXiv 1801.09414). */
  cosface: { scale: 64, margin: 0.4, own: sub },
  /** cos(θ + m) (arXiv 1801.07698). */
  arcface: { scale: 64, margin: 0.5, own: withAngle },
  /** ArcFace, but cos θ − m · sin m where θ + m would be π or more, so that it falls with θ everywhere. */
  "arcface-threshold": {
    scale: 64,
    margin: 0.5,
    own: (c, m) => select(greater(c, neg(cos(m))), withAngle(c, m), sub(c, mul(sin(m), m))),
  },
  /** ArcFace's values with the derivative of cos θ, as in insightface's code. */
  "arcface-straight-through": {
    scale: 64,
    margin: 0.5,
    own: (c, m) => add(c, stopGradient(sub(withAngle(c, m), c))),
  },
} satisfies Record<string, MarginRule>;

export type MarginKind = keyof typeof rules;

/** Names of the margins. */
export const marginKinds = Object.keys(rules) as readonly MarginKind[];

export interface MarginOptions {
  readonly kind: MarginKind;
  /** s. Default that of the paper: 30 for `amsoftmax`, 64 for the others. Small sets want a smaller one. */
  readonly scale?: number;
  /** m. Default that of the paper: 0.35 for `amsoftmax`, 0.4 for `cosface`, 0.5 (radians) for the others. */
  readonly margin?: number;
}

/** {@link MarginOptions} with the defaults of the kind filled in. */
export const marginOf = ({ kind, ...given }: MarginOptions): Required<MarginOptions> => {
  const { scale, margin } = rules[kind];
  return { kind, scale: given.scale ?? scale, margin: given.margin ?? margin };
};

/**
 * Logits of a margin head: s times the cosines, of which that of each picture's own identity is made smaller by the margin.
 *
 * @param cosines  of embeddings and identities, `[N, identities]`
 * @param targets  one-hot rows, `[N, identities]`
 * @param share  of the margin, for a warm-up: 0 is none, 1 (the default) all of it
 */
export function marginLogits(cosines: Value, targets: Value, options: MarginOptions, share: Value | number = 1): Value {
  const { kind, scale, margin } = marginOf(options);
  const m =
    typeof share === "number" ? constant(Tensor.full(cosines.dtype, [1, 1], share * margin)) : mul(share, margin);
  const own = reduceSum(mul(cosines, targets), 1, { keepDims: true });
  return mul(add(cosines, mul(targets, sub(rules[kind].own(own, m), own))), scale);
}

/**
 * A weight vector for each identity, beside which training puts the embeddings. Verification compares embeddings with
 * each other, so the merged form comes without. Key `weight` `[identities, D]`.
 */
export class IdentityWeights extends Module implements TrainingOnly {
  readonly trainingOnly = "the identities' weights";
  readonly weight: Parameter;
  /** Share of the margin that training applies at the moment: a coefficient named `margin`. */
  readonly margin = new Coefficient("margin", 1);

  constructor(identities: number, features: number) {
    super();
    this.weight = new Parameter([identities, features], { init: normal(0.01) });
  }

  /** Cosines of embeddings `[N, D]` and identities: `[N, identities]`. */
  cosines(embeddings: Value): Value {
    return linear(normalizeRows(embeddings), normalizeRows(this.weight.value));
  }
}
