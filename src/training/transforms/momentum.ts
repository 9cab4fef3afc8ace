import { add, mul } from "../../graph/index.ts";
import { forEachParameter, mustBeIn, type TrainedParameter, type UpdateRule, zerosLike } from "./rule.ts";

export interface MomentumOptions {
  /** Of parameters whose group says nothing else. */
  readonly momentum: number;
  /** Default false. */
  readonly nesterov?: boolean;
}

/** PyTorch's momentum: v = momentum·v + g, which takes the gradient's place; with Nesterov g + momentum·v does. */
export function withMomentum({ momentum: usual, nesterov = false }: MomentumOptions): UpdateRule {
  const of = ({ group: { momentum = usual } }: Pick<TrainedParameter, "group">): number => {
    mustBeIn("momentum", { momentum }, 0, 1);
    return momentum;
  };
  return forEachParameter({
    name: "momentum",
    settings: { momentum: usual, nesterov },
    state: (p) => (of(p) ? [zerosLike("momentum", p)] : []),
    apply: ({ gradient, state, group }) => {
      const momentum = of({ group });
      if (!momentum) return {};
      const v = add(mul(state.momentum, momentum), gradient);
      return { gradient: nesterov ? add(gradient, mul(v, momentum)) : v, state: { momentum: v } };
    },
  });
}
