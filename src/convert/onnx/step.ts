import type { OnnxNode } from "../../onnx/index.ts";
import type { Form, Layout } from "./form.ts";
import type { GraphView } from "./graph.ts";

/** How some nodes act on the values they take: as a linear map, once it is known what those are of one input. */
export interface Step {
  readonly inputs: readonly string[];
  /** The nodes it stands for; the last one makes its output. */
  readonly nodes: readonly OnnxNode[];
  /** Multiply-adds per position of the output. */
  readonly cost: number;
  /** Whether it has weights of its own to merge others into. */
  readonly anchor?: boolean;
  apply(forms: readonly Form[]): Form | string;
}

/** A step with the name of its rule. */
export interface Named extends Step {
  readonly rule: string;
}

/**
 * How an operator is a linear map. `read` answers with the step, with the reason why a node is none although its operator
 * may be, or with `undefined` where there is nothing to say (a product of two activations).
 */
export interface LinearRule {
  readonly name: string;
  readonly operators: readonly string[];
  read(graph: GraphView, node: OnnxNode): Step | string | undefined;
}

/** Where the channels are of a value with so many axes, if it can be one of pictures. */
export const layoutOf = (rank: number): Layout | undefined =>
  rank >= 2 && rank <= 5 ? ((rank - 2) as Layout) : undefined;
