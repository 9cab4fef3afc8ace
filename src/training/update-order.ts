import { type Node, reachable, type Value } from "../graph/index.ts";

/**
 * For each parameter, gradients of other parameters that depend on every use of it which its own gradient does not
 * depend on: the gradient of a layer's input above all. An update that waits for them can overwrite the parameter.
 *
 * @param roots       what the graph computes before the updates
 * @param parameters  values of the parameters
 * @param gradients   their gradients, in the same order
 */
export function waitedFor(
  roots: readonly Value[],
  parameters: readonly Value[],
  gradients: readonly Value[],
): readonly (readonly Value[])[] {
  const users = new Map<Node, Node[]>();
  for (const node of reachable(roots))
    for (const { node: used } of new Set(node.inputs)) {
      const known = users.get(used);
      if (known) known.push(node);
      else users.set(used, [node]);
    }
  const usersOf = (node: Node): readonly Node[] => users.get(node) ?? [];
  /** Users of its values; a reshaped parameter is still the same memory. */
  const usesOf = (node: Node): readonly Node[] =>
    usersOf(node).flatMap((user) => (user.op.name === "reshape" ? usesOf(user) : [user]));
  const gradientOf = new Map(gradients.map((g) => [g.node, g]));

  /** The gradient that the fewest nodes part from `node`, going forward. */
  const nearestGradient = (node: Node, own: Value): Value | undefined => {
    const seen = new Set([node]);
    for (const at of seen) {
      const found = gradientOf.get(at);
      if (found && found !== own) return found;
      for (const user of usersOf(at)) seen.add(user);
    }
    return undefined;
  };

  return parameters.map((parameter, i) => {
    const own = gradients[i];
    const uses = usesOf(parameter.node);
    const first = Math.min(...uses.map(({ id }) => id));
    const needed = neededBy(own.node, first);
    // What no gradient comes of, such as a running mean, is waited for itself.
    const found = uses.filter((use) => !needed.has(use)).map((use) => nearestGradient(use, own) ?? use.outputs[0]);
    return [...new Set(found)];
  });
}

/** The node and all that it depends on, as far as these were made after node number `first`. */
function neededBy(node: Node, first: number): ReadonlySet<Node> {
  const needed = new Set([node]);
  for (const at of needed) for (const { node: input } of at.inputs) if (input.id >= first) needed.add(input);
  return needed;
}
