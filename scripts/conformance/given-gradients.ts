import { input, type ParameterRef, type Value } from "../../src/graph/index.ts";
import type { Net } from "../../src/nn/index.ts";
import { compileStep } from "../../src/runtime/index.ts";
import { sizeOf, Tensor } from "../../src/tensor/index.ts";
import type { ParameterGroup, UpdateRule } from "../../src/training/index.ts";
import { type Slots, trainedOf, update } from "../../src/training/update.ts";

export interface GivenStep {
  readonly outputs: Readonly<Record<string, Tensor>>;
  /** Parameters by key and the rule's state after the step. */
  readonly state: ReadonlyMap<string, Tensor>;
}

/** Applies a rule to a network with gradients of our own, step by step. */
export async function withGradients(
  net: Net,
  rule: UpdateRule,
  steps: readonly Readonly<Record<string, Tensor>>[],
  { lr = 0.1, group = (_: string): ParameterGroup => ({}), state = {} as Readonly<Record<string, Tensor>> } = {},
): Promise<readonly GivenStep[]> {
  const trained = trainedOf(net, group);
  const slots: Slots = new Map();
  const next = new Map<ParameterRef, Value>();
  const names = new Map<ParameterRef, string>(trained.parameters.map(([key, p]) => [p, key]));
  const gradients = trained.parameters.map(([key, p]) => input(`gradient:${key}`, [sizeOf(p.shape)]));
  const { outputs, scalars } = update({ rule, trained, slots, next, names }, gradients);
  const program = await compileStep({ outputs, next, names }, { threads: 1 });
  program.writeState(new Map(Object.entries(state)));
  const results: GivenStep[] = [];
  for (const [i, given] of steps.entries()) {
    const feeds = Object.entries(given).map(([key, g]) => [`gradient:${key}`, g.reshape([g.size])] as const);
    const numbers = scalars.map((name) => {
      const value = rule.scalars![name]({ lr, step: i + 1 });
      return [`scalar:${name}`, Tensor.float32([1], [value])] as const;
    });
    const made = await program.step(Object.fromEntries([...feeds, ...numbers]));
    results.push({ outputs: made, state: await program.readState() });
  }
  await program.dispose();
  return results;
}
