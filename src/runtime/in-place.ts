import type { OnnxModel, OnnxNode } from "../onnx/index.ts";

/** They give a tensor another shape and share its memory. */
export const views: ReadonlySet<string> = new Set(["Reshape", "Identity", "Flatten", "Squeeze", "Unsqueeze"]);

/** They read each value of an operand right before they write the result's value of the same place. */
const valueByValue: ReadonlySet<string> = new Set(["Add", "Sub", "Mul", "Div"]);

/**
 * Names of the inputs whose memory an output may be written to: those which every other node has read by then, whatever
 * order the runtime takes, because the node that writes the output needs their results.
 *
 * @param replacements  pairs of an input and the output of equal shape and dtype that takes its place
 */
export function writtenInPlace(
  { nodes, outputs }: Pick<OnnxModel, "nodes" | "outputs">,
  replacements: Iterable<readonly [input: string, output: string]>,
): Set<string> {
  const makers = new Map<string, number>();
  const readers = new Map<string, number[]>();
  for (const [i, node] of nodes.entries()) {
    for (const name of node.outputs) makers.set(name, i);
    for (const name of new Set(node.inputs)) {
      const known = readers.get(name);
      if (known) known.push(i);
      else readers.set(name, [i]);
    }
  }
  const results = new Set(outputs.map(({ name }) => name));

  /** Indices of the nodes that read a tensor itself or a view of it. A view that is an output is read at any time. */
  const readersOf = (name: string): number[] =>
    (readers.get(name) ?? []).flatMap((i) => {
      const { opType, inputs, outputs: made } = nodes[i];
      const isView = views.has(opType) && inputs[0] === name && !results.has(made[0]);
      return isView ? readersOf(made[0]) : [i];
    });

  /** Whether node `last` needs the results of all `wanted`; nodes stand in topological order. */
  const needsAll = (last: number, wanted: ReadonlySet<number>): boolean => {
    const earliest = Math.min(...wanted);
    const left = new Set(wanted);
    const seen = new Set([last]);
    const stack = [last];
    for (let at = stack.pop(); at !== undefined && left.size; at = stack.pop())
      for (const name of nodes[at].inputs) {
        const maker = makers.get(name);
        if (maker === undefined || maker < earliest || seen.has(maker)) continue;
        seen.add(maker);
        left.delete(maker);
        stack.push(maker);
      }
    return !left.size;
  };

  const isSafe = (input: string, output: string): boolean => {
    const writer = makers.get(output);
    if (writer === undefined) return false;
    const others = new Set(readersOf(input));
    if (others.delete(writer) && !readsValueByValue(nodes[writer])) return false;
    return !others.size || needsAll(writer, others);
  };
  return new Set([...replacements].filter(([input, output]) => isSafe(input, output)).map(([input]) => input));
}

const readsValueByValue = ({ opType }: OnnxNode): boolean => valueByValue.has(opType);
