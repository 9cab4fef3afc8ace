import { RepMLP } from "../blocks/repmlp.ts";
import { Comparison, randomInputs } from "../inference/index.ts";
import { BatchNorm, traceModel } from "../nn/index.ts";
import { convertToDeploy } from "../reparam/index.ts";
import { rng, type Tensor } from "../tensor/index.ts";

export interface SelfCheck {
  /** Sum of the squared differences of both forms' outputs, the figure that the paper's code prints. */
  readonly squaredDifference: number;
  readonly maxAbs: number;
  /** Largest absolute output. */
  readonly outputMax: number;
}

/**
 * The check of the paper's code (`python repmlp.py`): one random block with C = O = 8, 14 × 14 input, 7 × 7 partitions,
 * kernels 1, 3, 5, 4 groups and batch-norm values uniform in 0 … 0.1, one random input, both forms.
 */
export async function selfCheck(seed = 0): Promise<SelfCheck> {
  const block = new RepMLP({
    inChannels: 8,
    height: 14,
    width: 14,
    partition: 7,
    reparamConvKernels: [1, 3, 5],
    groups: 4,
  });
  block.initialize(seed).eval();
  for (const [path, module] of block.modules()) {
    if (!(module instanceof BatchNorm)) continue;
    const { weight, bias, runningMean, runningVar } = module;
    for (const [i, p] of [weight, bias, runningMean, runningVar].entries()) {
      if (!p) continue;
      const random = rng(seed, `${path}/${i}`);
      p.set(p.data.map(() => 0.1 * random.next()));
    }
  }
  const x = randomInputs([8, 14, 14], 1, seed);
  const [before, after] = await Promise.all([block, convertToDeploy(block)].map((form) => run(form, x)));
  const { squares: squaredDifference, maxAbs, scale: outputMax } = new Comparison().add(before, after);
  return { squaredDifference, maxAbs, outputMax };
}

async function run(block: RepMLP, x: Tensor): Promise<Float64Array> {
  // Loaded here, so that the blocks alone do not load the runtime.
  const { compile } = await import("../runtime/index.ts");
  const { output, names } = traceModel(block, x.shape);
  const program = await compile({ outputs: { output } }, { names });
  const result = await program.run({ input: x });
  await program.dispose();
  return result.output.toFloat64();
}
