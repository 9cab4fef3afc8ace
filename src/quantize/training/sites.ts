import {
  asConstant,
  asParameter,
  asRandom,
  type Node,
  type ParameterRef,
  reachable,
  type Value,
} from "../../graph/index.ts";

/** What becomes integers in the graph of a merged network. */
export interface QuantizedGraph {
  /** Parameters whose values a convolution or matrix product reads as integers. */
  readonly weights: ReadonlySet<ParameterRef>;
  /** Activations that become integers, with the name of each: the layer that makes it. */
  readonly activations: ReadonlyMap<Value, string>;
}

/** Ops with a weight that runtimes have integer kernels for: their second input. */
const weighted = new Set(["conv2d", "linear"]);
/** Ops that pass values on as they are, or choose among them. */
const passing = new Set(["maxPool2d", "reshape", "transpose", "partition", "unpartition"]);
/** Ops that a kernel takes with what makes their input. */
const activations = new Set(["relu", "clip"]);

/**
 * Decides what becomes integers, as `planQuantization` does for ONNX models: the input of each convolution and fully
 * connected layer with a parameter as its weight, what a convolution writes (with its bias, behind its ReLU), and sums of
 * two integer tensors. What pooling and reshapes pass on keeps the range of what comes into them.
 *
 * @param isKept  whether a weight stays in float
 */
export function quantizedGraph(output: Value, isKept: (weight: ParameterRef) => boolean): QuantizedGraph {
  const nodes = reachable([output]);
  const users = new Map<Value, Node[]>();
  for (const node of nodes)
    for (const v of new Set(node.inputs)) {
      const known = users.get(v);
      if (known) known.push(node);
      else users.set(v, [node]);
    }
  const onlyUser = (v: Value): Node | undefined => {
    const [user, ...others] = users.get(v) ?? [];
    return v === output || others.length ? undefined : user;
  };
  const layers = nodes.filter(({ op, inputs }) => {
    const weight = weighted.has(op.name) ? asParameter(inputs[1]) : undefined;
    return weight !== undefined && !isKept(weight.ref);
  });
  const integer = new Set(layers.map(({ inputs }) => inputs[0]));
  const activated = (v: Value): Value => {
    const user = onlyUser(v);
    return user && activations.has(user.op.name) ? user.outputs[0] : v;
  };
  const biased = (v: Value): Value => {
    const user = onlyUser(v);
    return user?.op.name === "add" && user.inputs.some((other) => other !== v && isFixed(other)) ? user.outputs[0] : v;
  };
  for (const { op, outputs } of layers) if (op.name === "conv2d") integer.add(activated(biased(outputs[0])));
  for (const { op, inputs, outputs } of nodes)
    if (op.name === "add" && inputs.every((v) => integer.has(unmasked(v)))) integer.add(activated(outputs[0]));
  const roots = new Set([...integer].map(rootOf));
  // The output of the network stays as it is.
  roots.delete(output);
  return {
    weights: new Set(layers.map(({ inputs }) => asParameter(inputs[1])!.ref)),
    activations: named(nodes.flatMap(({ outputs }) => outputs).filter((v) => roots.has(v))),
  };
}

/** Where a value that was only reshaped, pooled or dropped out comes from. */
function rootOf(v: Value): Value {
  if (passing.has(v.node.op.name)) return rootOf(v.node.inputs[0]);
  const whole = unmasked(v);
  return whole === v ? v : rootOf(whole);
}

/** What dropout has zeroed parts of, in training: the same then becomes integers as in evaluation. */
function unmasked(v: Value): Value {
  const { op, inputs } = v.node;
  return op.name === "mul" && isMask(inputs[1]) ? unmasked(inputs[0]) : v;
}

/** Whether a value is drawn by chance alone. */
function isMask(v: Value): boolean {
  const leaves = reachable([v]).filter(({ inputs }) => !inputs.length);
  const drawn = leaves.filter(({ outputs }) => asRandom(outputs[0]));
  return drawn.length > 0 && leaves.every((leaf) => drawn.includes(leaf) || asConstant(leaf.outputs[0]));
}

/** Whether a value is a parameter, or a view of one. */
const isFixed = (v: Value): boolean =>
  asParameter(v) !== undefined || (passing.has(v.node.op.name) && isFixed(v.node.inputs[0]));

/** Names by layer; several of one layer are numbered. */
function named(values: readonly Value[]): Map<Value, string> {
  const counts = new Map<string, number>();
  return new Map(
    values.map((v) => {
      const base = v.node.path || v.node.op.name;
      const count = counts.get(base) ?? 0;
      counts.set(base, count + 1);
      return [v, count ? `${base}_${count}` : base];
    }),
  );
}
