import { isFloating } from "../tensor/index.ts";
import { after } from "./ops/after.ts";
import { asConstant, asParameter, asRandom, type Node, substitute, type Value } from "./value.ts";

/** Names the part of a network that a node belongs to; what belongs to none is kept. */
export type PartOf = (node: Node) => string | undefined;

/**
 * Values of a forward pass that the backward pass computes anew, one part of the network after the other, instead of
 * having all of them kept: gradient checkpointing (Chen et al., arXiv 1604.06174). Only what enters a part from outside
 * is kept. The part that the backward pass meets first is in memory anyway, and used as it is.
 */
export class Recomputation {
  private readonly parts = new Map<string, Node[]>();
  private readonly again = new Map<Value, Value>();
  private readonly met = new Set<string>();

  constructor(
    nodes: readonly Node[],
    private readonly partOf: PartOf,
  ) {
    for (const node of nodes) {
      const part = node.inputs.length ? partOf(node) : undefined;
      if (part === undefined) continue;
      const known = this.parts.get(part);
      if (known) known.push(node);
      else this.parts.set(part, [node]);
    }
  }

  /** The backward pass has come to a node, with the cotangent `dy`: its part is computed anew, once `dy` is there. */
  meet(node: Node, dy: Value): void {
    const part = node.inputs.length ? this.partOf(node) : undefined;
    if (part === undefined || this.met.has(part)) return;
    this.met.add(part);
    if (this.met.size === 1) return;
    const nodes = this.parts.get(part)!;
    const inside = new Set(nodes);
    const entering = new Set(nodes.flatMap(({ inputs }) => inputs).filter((v) => !inside.has(v.node) && changes(v)));
    const delayed = new Map([...entering].map((v) => [v, after(v, [dy])]));
    const values = nodes.flatMap(({ outputs }) => outputs);
    for (const [i, value] of substitute(values, delayed).entries()) this.again.set(values[i], value);
    for (const [value, late] of delayed) this.again.set(value, late);
  }

  /** A value as a node of the backward pass is to read it. */
  read(value: Value, reader: Node): Value {
    return this.partOf(reader) === undefined ? value : (this.again.get(value) ?? value);
  }
}

/** Whether a value has to be delayed for what is made from it to be computed again: parameters need no memory. */
const changes = (v: Value): boolean => isFloating(v.dtype) && !asParameter(v) && !asConstant(v) && !asRandom(v);
