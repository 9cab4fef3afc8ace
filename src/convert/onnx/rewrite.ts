import type { OnnxNode } from "../../onnx/index.ts";
import type { GraphView } from "./graph.ts";
import type { Named } from "./step.ts";
import type { Written } from "./write.ts";

/** What a rule sees: the graph, and how a node is read as a linear map. */
export interface Sight {
  readonly graph: GraphView;
  step(node: OnnxNode): Named | string | undefined;
}

/** Nodes that go and nodes that come. */
export interface Rewrite extends Written {
  readonly removed: readonly { readonly node: OnnxNode; readonly rule: string }[];
  /** The value that the new nodes read. */
  readonly input: string;
}

/**
 * A change of the graph beyond the merging of linear maps one after the other. Answers with the change, with the reason
 * why it is not made, or with `undefined` where there is nothing to say.
 */
export interface RewriteRule {
  readonly name: string;
  rewrite(sight: Sight, node: OnnxNode): Rewrite | string | undefined;
}
