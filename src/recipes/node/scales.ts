import { type RepOptScales, repOptInitialize, repOptMultipliers, repOptScales } from "../../blocks/index.ts";
import { must } from "../../errors.ts";
import { openModelCheckpoint } from "../../inference/node/open-model.ts";
import type { Net } from "../../nn/index.ts";
import type { Optimizer } from "../../training/index.ts";
import type { StartOptions } from "../start.ts";

/** Training a plain network under RepOptimizer, by the scales of a search network. */
export interface ScaledTraining {
  /** Gives the network the values that one with branches of these scales would begin with. */
  initialize(net: Net, seed: number): void;
  /** The recipe's optimizer with the gradients' factors. */
  optimizer(own: Optimizer, net: Net): Optimizer;
}

/**
 * Reads scales from the checkpoint of a search network.
 *
 * @throws `repopt/scales` where there are none; later `repopt/fit` where they are another network's, `repopt/optimizer`
 */
export async function readScales(path: string, { key }: Pick<StartOptions, "key">): Promise<ScaledTraining> {
  using checkpoint = await openModelCheckpoint(path, { key });
  const scales: ReadonlyMap<string, RepOptScales> = await repOptScales(checkpoint.entries, path);
  return {
    initialize(net, seed) {
      net.initialize(seed);
      repOptInitialize(net, scales, { seed });
    },
    optimizer(own, net) {
      must(
        own.repOptimized,
        "repopt/optimizer",
        () => `train: scales are for SGD and AdamW, the optimizer is ${own.name}. Choose another one in the recipe.`,
        "usage",
      );
      return own.repOptimized((power) => repOptMultipliers(net, scales, power));
    },
  };
}
