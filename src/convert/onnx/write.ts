import type { AttributeValue, OnnxNode } from "../../onnx/index.ts";
import type { HostTensor } from "../../reparam/host.ts";
import type { TensorSource } from "../../tensor/index.ts";
import type { Form } from "./form.ts";
import { type GraphView, nameOf } from "./graph.ts";
import { swapped, viewed } from "./kernels.ts";

/** Nodes that take the place of others, with their constants. */
export interface Written {
  readonly nodes: readonly OnnxNode[];
  readonly constants: ReadonlyMap<string, TensorSource>;
}

/**
 * The nodes that compute a form, in the type of the weight of `anchor`, whose name they take: one, or a product and a sum
 * where the bias has no place in the product.
 */
export function written(graph: GraphView, form: Form, anchor: OnnxNode, input: string, output: string): Written {
  const { bias, layout, fixed, groups } = form;
  const weight = form.weight as HostTensor;
  const [outputs, inputs, , width] = weight.shape;
  const base = anchor.inputs[1].replace(/\.merged(_\d+)?$/, "");
  const { dtype } = graph.constant(anchor.inputs[1])!;
  const constants = new Map<string, TensorSource>();
  const store = (t: HostTensor, name: string): string => {
    const unique = graph.uniqueName(name);
    constants.set(unique, t.source(dtype));
    return unique;
  };
  const stored = (t: HostTensor): string => store(t, `${base}.merged`);
  const bound = bias ? [store(bias, `${base}.merged_bias`)] : [];
  const name = nameOf(anchor);
  const node = (
    opType: string,
    list: readonly string[],
    attrs: Record<string, AttributeValue>,
    to = output,
  ): OnnxNode => ({ name, ...(anchor.doc && { doc: anchor.doc }), opType, inputs: list, outputs: [to], attrs });
  const made = (): OnnxNode[] => {
    if (layout === 0) {
      const w = stored(viewed(weight, [outputs, inputs]));
      return [node("Gemm", [input, w, ...bound], { alpha: { float: 1 }, beta: { float: 1 }, transB: 1 })];
    }
    if (layout === "last") {
      const w = stored(swapped(viewed(weight, [outputs, inputs])));
      if (!bias) return [node("MatMul", [input, w], {})];
      const between = graph.uniqueName(`${output}.product`);
      return [
        node("MatMul", [input, w], {}, between),
        { ...node("Add", [between, ...bound], {}), name: graph.uniqueName(`${name}.bias`) },
      ];
    }
    if (fixed) {
      const { opType, attrs } = fixed.node;
      const own =
        opType === "ConvTranspose"
          ? viewed(swapped(weight, groups), [inputs * groups, outputs / groups, ...fixed.kernel])
          : viewed(weight, [outputs, inputs, ...fixed.kernel]);
      return [
        node(opType, [input, stored(own), ...bound], {
          ...attrs,
          ...((groups !== 1 || attrs.group !== undefined) && { group: groups }),
        }),
      ];
    }
    const windows = layout === 1 ? form.windows.slice(1) : form.windows;
    const own = layout === 1 ? viewed(weight, [outputs, inputs, width]) : weight;
    return [
      node("Conv", [input, stored(own), ...bound], {
        dilations: windows.map((w) => w.dilation),
        group: groups,
        kernel_shape: windows.map((w) => w.kernel),
        pads: [...windows.map((w) => w.begin), ...windows.map((w) => w.end)],
        strides: windows.map((w) => w.stride),
      }),
    ];
  };
  return { nodes: made(), constants };
}
