import { listed, must } from "../../errors.ts";
import type { OnnxModel, OnnxNode } from "../../onnx/index.ts";
import { producerOf, statedTensor } from "./prepare.ts";

const words = (list: string): ReadonlySet<string> => new Set(list.split(" "));

/** What changes the shape of an output at most. */
const passing = words("Identity Cast Dropout Flatten Reshape Squeeze Unsqueeze");
/** What averages outputs of several heads, crops or pixels. */
const averaging = words("Add Sum Mean Div Mul ReduceMean AveragePool GlobalAveragePool");
/** What turns each number into one from 0 to 1. */
const bounding = words("Sigmoid HardSigmoid Softmax");

/**
 * What goes into the Softmax that makes an output (also one whose result is only moved to another shape or type), or the
 * output itself.
 */
export function logitsOf(model: OnnxModel, output: string): string {
  for (let at = output; ; ) {
    const node = producerOf(model, at);
    if (!node || node.domain) return output;
    if (node.opType === "Softmax") return logitsOf(model, node.inputs[0]);
    if (!passing.has(node.opType)) return output;
    at = node.inputs[0];
  }
}

/** What goes into the Softmax or Sigmoid that is the last node of a model, or the output itself: of the same type and shape. */
export function rawOutput(model: OnnxModel, output: string): string {
  const node = producerOf(model, output);
  return node && !node.domain && bounding.has(node.opType) ? node.inputs[0] : output;
}

/** The nodes that make an output one of numbers from 0 to 1, directly or as their average; none where it is not that. */
function boundsOf(model: OnnxModel, output: string): OnnxNode[] {
  const node = producerOf(model, output);
  if (!node || node.domain) return [];
  if (bounding.has(node.opType)) return [node];
  if (passing.has(node.opType)) return boundsOf(model, node.inputs[0]);
  if (!averaging.has(node.opType)) return [];
  const fed = node.inputs.filter((name) => name !== "" && !statedTensor(model, name));
  // A product of two of them is a gate, no average.
  if (!fed.length || (fed.length > 1 && (node.opType === "Mul" || node.opType === "Div"))) return [];
  const all = fed.map((name) => boundsOf(model, name));
  return all.every((nodes) => nodes.length) ? all.flat() : [];
}

/**
 * Refuses outputs that are shares or probabilities: cross entropy wants logits.
 *
 * @throws `onnx-net/logits` naming the nodes, and the tensor to train on where there is one
 */
export function mustBeLogits(model: OnnxModel, output: string): void {
  const nodes = boundsOf(model, output);
  must(
    !nodes.length,
    "onnx-net/logits",
    () => {
      const names = listed(nodes.map(({ opType, name, outputs }) => `${opType} node "${name || outputs[0]}"`));
      const inputs = [...new Set(nodes.map(({ inputs: [from] }) => from))];
      const advice =
        inputs.length === 1
          ? `If each picture has one class, train on what goes in: \`output\` "${inputs[0]}".`
          : `Train on what goes into one of them (\`output\`: one of ${listed(inputs)}), or export the model without them.`;
      return (
        `onnx-net: output "${output}" is made of numbers from 0 to 1 by ${names}, but training here is by the cross ` +
        `entropy of a softmax over logits, for one class per picture. ${advice}`
      );
    },
    "usage",
  );
}
