import { RepmlpError } from "../../errors.ts";
import type { OnnxModel, OnnxNode } from "../../onnx/index.ts";
import { isFloating, sizeOf } from "../../tensor/index.ts";
import { byCodePoint } from "../../text.ts";
import { costOf, type Form, identity, strideOf } from "./form.ts";
import { describe, GraphView, nameOf } from "./graph.ts";
import type { Rewrite, RewriteRule, Sight } from "./rewrite.ts";
import { rewriteRules } from "./rewrites.ts";
import { linearRules } from "./rules.ts";
import type { LinearRule, Named } from "./step.ts";
import { written } from "./write.ts";

/** Nodes that became one. */
export interface OnnxMerge {
  /** What they are now. */
  readonly into: string;
  /** What they were, inputs first. */
  readonly nodes: readonly { readonly name: string; readonly operator: string; readonly rule: string }[];
  /** The value they read. */
  readonly input: string;
  /** Further nodes that were written anew with it. */
  readonly beside?: readonly string[];
}

/** A node that a rule looked at and left. */
export interface OnnxKept {
  readonly name: string;
  readonly operator: string;
  readonly reason: string;
}

export interface MergedOnnx {
  readonly model: OnnxModel;
  /** In the order in which they were made; one that was merged further is named by what it became then. */
  readonly merges: readonly OnnxMerge[];
  readonly kept: readonly OnnxKept[];
}

/** A rule: how an operator is a linear map, or a change of the graph of its own. */
export type OnnxRule = LinearRule | RewriteRule;

/** All rules. */
export const onnxRules: readonly OnnxRule[] = [...linearRules, ...rewriteRules];

export interface MergeOnnxOptions {
  /** Default: {@link onnxRules}. Of two that read one operator the later one does. */
  readonly rules?: readonly OnnxRule[];
}

/** Nodes of one merge at most, values that it may come from while it is looked for, and how often it may fail. */
const REGION_LIMIT = 128;
const FRONTIER_LIMIT = 256;
const FAILURES = 12;

/** Weights of a merge, as a multiple of those that went into it: a few bytes of a file can ask for any kernel. */
const GROWTH = 16;
const SMALL = 1 << 16;

/** Share of the file's weights that copies of shared ones may add. */
const COPIES = 0.05;

/** Numbers of a computed constant that is stored in place of the nodes that compute it. */
const STORED = 1024;

/**
 * Merges linear nodes of an ONNX model into the convolutions and matrix products around them: batch norms, scales and
 * shifts, parallel branches, poolings, sequences. Nothing is run, no node is looked at by its name, and what the model
 * computes stays the same but for rounding: weights are computed in float64 and rounded once.
 *
 * @throws RepmlpError of kind `file` for a damaged graph or an operator set that is not known
 */
export function mergeOnnx(model: OnnxModel, { rules = onnxRules }: MergeOnnxOptions = {}): MergedOnnx {
  const first = new Merging(model, rules, new Set()).run();
  // Constants that were computed to see through them, but that are too large to be stored in place of a formula.
  return first.large.size ? new Merging(model, rules, first.large).run() : first;
}

/** A merge that is possible and pays. */
interface Plan {
  readonly form: Form;
  readonly root: string;
  readonly steps: readonly Named[];
}

const isLinear = (rule: OnnxRule): rule is LinearRule => "operators" in rule;

class Merging implements Sight {
  readonly graph: GraphView;
  private readonly rules: ReadonlyMap<string, LinearRule>;
  private readonly rewrites: readonly RewriteRule[];
  private readonly steps = new Map<OnnxNode, Named | string | undefined>();
  private readonly merges: OnnxMerge[] = [];
  private readonly reasons = new Map<OnnxNode, string>();
  private readonly order = new Map<OnnxNode, number>();
  /** What the nodes that were made here were made of. */
  private readonly origins = new Map<OnnxNode, OnnxMerge["nodes"]>();

  constructor(model: OnnxModel, rules: readonly OnnxRule[], formulas: ReadonlySet<string>) {
    this.graph = new GraphView(model, formulas);
    this.rules = new Map(rules.filter(isLinear).flatMap((rule) => rule.operators.map((op) => [op, rule] as const)));
    this.rewrites = rules.filter((rule): rule is RewriteRule => !isLinear(rule));
    for (const [i, node] of model.nodes.entries()) this.order.set(node, i);
  }

  run(): MergedOnnx & { readonly large: ReadonlySet<string> } {
    // Near a change first; what became possible elsewhere is found when all are looked at once more.
    for (let changed = true; changed; ) {
      changed = false;
      for (let pending = this.graph.sorted(); pending.length; ) {
        const next = new Set<OnnxNode>();
        for (const node of pending) {
          if (this.graph.producer(node.outputs[0]) !== node) continue;
          this.reasons.delete(node);
          const change = this.change(node);
          if (!change) continue;
          changed = true;
          for (const near of this.apply(change)) next.add(near);
        }
        pending = this.graph.sorted().filter((node) => next.has(node));
      }
    }
    const nodes = this.graph.sorted();
    const kept = nodes.flatMap((node) => {
      const reason = this.reasons.get(node);
      return reason === undefined ? [] : [{ name: nameOf(node), operator: node.opType, reason }];
    });
    const alive = new Set(nodes.map(nameOf));
    const merges = this.merges.filter(({ into }) => alive.has(into));
    return { model: this.graph.result(this.order), merges, kept, large: this.graph.largeFormulas(STORED) };
  }

  step(node: OnnxNode): Named | string | undefined {
    if (this.steps.has(node)) return this.steps.get(node);
    const rule = node.domain ? undefined : this.rules.get(node.opType);
    const step = rule && orReason(() => rule.read(this.graph, node));
    const named = typeof step === "object" ? { ...step, rule: rule!.name } : step;
    this.steps.set(node, named);
    return named;
  }

  /** The change that a node is the end of. */
  private change(node: OnnxNode): Rewrite | undefined {
    const plan = this.plan(node);
    if (plan) return this.merged(plan, node);
    for (const rule of this.rewrites) {
      const found = orReason(() => rule.rewrite(this, node));
      if (typeof found === "object") return found;
      if (found !== undefined) this.reasons.set(node, found);
    }
    return undefined;
  }

  /** The merge that ends with a node: from the nearest value that all of it follows from. */
  private plan(sink: OnnxNode): Plan | undefined {
    const { graph } = this;
    const first = this.step(sink);
    if (first === undefined) return undefined;
    if (typeof first === "string") return this.keep(sink, first);
    const steps = new Map<string, Named>([[sink.outputs[0], first]]);
    const region = new Set<OnnxNode>(first.nodes);
    const frontier = new Set(first.inputs);
    let reason: string | undefined;
    for (let failures = 0; failures < FAILURES; ) {
      const stay = this.used(region, sink);
      if (stay !== undefined) {
        reason ??= stay;
        break;
      }
      if (frontier.size === 1 && region.size > 1 && [...steps.values()].some((s) => s.anchor)) {
        const [root] = frontier;
        const found = this.formOf(sink.outputs[0], root, steps);
        if (typeof found === "string") reason = found;
        else {
          const plan = { form: found.form, root, steps: [...steps.values()] };
          const against = this.against(plan, found.cost, region);
          if (against === undefined) return plan;
          reason = against;
        }
        failures++;
      }
      const deepest = [...frontier].sort((a, b) => graph.level(b) - graph.level(a) || byCodePoint(a, b))[0];
      const node = graph.producer(deepest);
      const step = node && this.step(node);
      if (typeof step !== "object") {
        reason ??= node
          ? `${describe(node)} ${step === undefined ? "is not linear" : `is in the way: ${step}`}`
          : undefined;
        break;
      }
      if (region.size + step.nodes.length > REGION_LIMIT || frontier.size > FRONTIER_LIMIT) {
        reason ??= `more than ${REGION_LIMIT} nodes would have to become one`;
        break;
      }
      steps.set(deepest, step);
      for (const part of step.nodes) region.add(part);
      frontier.delete(deepest);
      for (const input of step.inputs) frontier.add(input);
    }
    return first.anchor && region.size === 1 ? undefined : this.keep(sink, reason);
  }

  private keep(node: OnnxNode, reason: string | undefined): undefined {
    if (reason !== undefined) this.reasons.set(node, reason);
    return undefined;
  }

  /** Why the nodes of a region cannot go: somebody else reads what they make. */
  private used(region: ReadonlySet<OnnxNode>, sink: OnnxNode): string | undefined {
    for (const node of region)
      for (const name of node.outputs) {
        if (node === sink && name === sink.outputs[0]) continue;
        if (name === "") continue;
        if (this.graph.isOutput(name)) return `"${name}" is an output of the model`;
        const other = [...this.graph.consumers(name)].find((reader) => !region.has(reader));
        if (other) return `"${name}" is read by ${describe(other)}, too`;
      }
    return undefined;
  }

  /** What a value is of another, and the multiply-adds per position of that other. */
  private formOf(
    value: string,
    root: string,
    steps: ReadonlyMap<string, Named>,
  ): { form: Form; cost: number } | string {
    const forms = new Map<string, Form | string>([[root, identity]]);
    let cost = 0;
    const visit = (name: string): Form | string => {
      const known = forms.get(name);
      if (known !== undefined) return known;
      const step = steps.get(name)!;
      const parts = step.inputs.map(visit);
      const bad = parts.find((f) => typeof f === "string");
      const form = bad ?? orReason(() => step.apply(parts as readonly Form[]));
      forms.set(name, form);
      if (typeof form === "object") cost += step.cost / strideOf(form);
      return form;
    };
    const form = visit(value);
    return typeof form === "string" ? form : { form, cost };
  }

  /** What speaks against a merge. */
  private against({ form }: Plan, before: number, region: ReadonlySet<OnnxNode>): string | undefined {
    if (!form.weight) return "nothing has weights that it could be merged into";
    const now = costOf(form) / strideOf(form);
    if (now > before * (1 + 1e-9))
      return `it would take ${Math.round(now)} multiply-adds per position of the input instead of ${Math.round(before)}`;
    const stored = [...region].reduce((n, node) => n + this.weightsOf(node), 0);
    const needed = sizeOf(form.weight.shape);
    if (!(needed <= SMALL + GROWTH * stored)) return `it would need ${needed} weights in place of ${stored}`;
    if (form.windows.some((w) => w.begin < 0 || w.end < 0))
      return "a convolution cannot cut off the border of its input";
    if (form.layout === undefined) return "the number of axes is not known";
    const nodes = form.layout === "last" && form.bias ? 2 : 1;
    if (region.size <= nodes) return "it would stay as many nodes";
    return this.copies(region);
  }

  private weightsOf(node: OnnxNode): number {
    return node.inputs.reduce((n, name) => n + sizeOf(this.graph.constant(name)?.shape ?? [0]), 0);
  }

  /** Weights that other nodes read, too, would be stored once more. */
  private copies(region: ReadonlySet<OnnxNode>): string | undefined {
    for (const node of region)
      for (const name of node.inputs) {
        const source = this.graph.constant(name);
        if (!source || !isFloating(source.dtype)) continue;
        const others = [...this.graph.consumers(name)].filter((reader) => !region.has(reader)).length;
        const extra = sizeOf(source.shape) * others;
        if (extra > 4096 && extra > COPIES * this.graph.weights)
          return `its weight "${name}" is shared with ${others} others, and copies would make the file larger by ${extra} values`;
      }
    return undefined;
  }

  /** One node in place of those of a plan. */
  private merged({ form, root, steps }: Plan, sink: OnnxNode): Rewrite {
    const parts = steps.flatMap((step) => step.nodes.map((node) => ({ node, rule: step.rule, anchor: step.anchor })));
    const sorted = this.inOrder(parts);
    const anchor = sorted.findLast((part) => part.anchor)!.node;
    return { ...written(this.graph, form, anchor, root, sink.outputs[0]), removed: sorted, input: root };
  }

  private inOrder<T extends { readonly node: OnnxNode }>(parts: readonly T[]): T[] {
    const level = ({ node }: T): number => this.graph.level(node.outputs[0]);
    return [...parts].sort((a, b) => level(a) - level(b) || byCodePoint(nameOf(a.node), nameOf(b.node)));
  }

  /** Makes a change; the nodes for which more may have become possible. */
  private apply({ removed, nodes, constants, input }: Rewrite): OnnxNode[] {
    const { graph } = this;
    const at = Math.max(...removed.map(({ node }) => this.order.get(node) ?? 0));
    const parts = this.inOrder(removed);
    const originsOf = ({ node, rule }: Rewrite["removed"][number]): OnnxMerge["nodes"] =>
      this.origins.get(node) ?? [{ name: nameOf(node), operator: node.opType, rule }];
    const sources = parts.flatMap(originsOf);
    graph.replace(
      removed.map(({ node }) => node),
      nodes,
      constants,
    );
    const [main, ...beside] = nodes;
    for (const node of nodes) this.order.set(node, at);
    this.origins.set(main, sources);
    for (const node of beside) {
      const old = parts.find((part) => nameOf(part.node) === nameOf(node));
      this.origins.set(node, old ? originsOf(old) : []);
    }
    const older = new Set(parts.map(({ node }) => nameOf(node)));
    const others = this.merges.filter(({ into }) => !older.has(into));
    const made = {
      into: nameOf(main),
      nodes: sources,
      input,
      ...(beside.length && { beside: beside.map(nameOf) }),
    };
    this.merges.splice(0, this.merges.length, ...others, made);
    const before = graph.producer(input);
    return [...nodes, ...(before ? [before] : []), ...nodes.flatMap((node) => this.downstream(node, 3))];
  }

  /** Nodes that read what a node makes, and so on for some steps. */
  private downstream(node: OnnxNode, depth: number): OnnxNode[] {
    if (!depth) return [];
    const next = node.outputs.flatMap((name) => [...this.graph.consumers(name)]);
    return next.flatMap((reader) => [reader, ...(this.step(reader) ? this.downstream(reader, depth - 1) : [])]);
  }
}

/** What a file breaks that the standard demands is a reason to leave its nodes alone. */
function orReason<T>(read: () => T): T | string {
  try {
    return read();
  } catch (cause) {
    if (cause instanceof RepmlpError) return cause.message;
    throw cause;
  }
}
