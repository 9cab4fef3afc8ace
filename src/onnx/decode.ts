import { must, RepmlpError } from "../errors.ts";
import type { TensorSource } from "../tensor/index.ts";
import { attributeFromProto } from "./attribute.ts";
import { dtypeFromElementType, isSupported } from "./element-type.ts";
import { keptParts } from "./keep.ts";
import { readMessage } from "./message.ts";
import type { OnnxDim, OnnxModel, OnnxNode, OnnxValueInfo } from "./model.ts";
import { ProtoReader } from "./protobuf.ts";
import type { Message } from "./schema.ts";
import { type OpenExternal, type StoredValues, tensorFromProto } from "./tensor-proto.ts";
import { checkWire } from "./wire-check.ts";

export interface DecodeOnnxOptions {
  /** Name of the file, for messages; default `"onnx"`. */
  readonly name?: string;
  /** Absolute path of the file, for who can map its values from there. */
  readonly path?: string;
  /** Opens external data; without it a model that has some is refused. */
  readonly external?: OpenExternal;
  /**
   * Keeps all that the file says, so that writing it back loses nothing: sub-graphs, functions, operators and types that
   * are not read here. What is not a tensor of a known type is then left out of the lists instead of being refused.
   */
  readonly keep?: boolean;
}

/**
 * Reads an ONNX file. Values stay views of `bytes`, which must not be changed afterwards.
 *
 * The file is taken as hostile: sizes and offsets are checked before anything is allocated, external data may not leave
 * the folder of the model.
 *
 * @throws RepmlpError of kind `file`; codes `onnx/not-protobuf`, `onnx/no-graph`, `onnx/element-type`, `onnx/value-type`,
 *   `onnx/sparse`, `onnx/functions`, `onnx/duplicate`, `onnx/dims`, `onnx/size`, `onnx/external-*`, `onnx/bomb`
 */
export function decodeOnnx(
  bytes: Uint8Array<ArrayBuffer>,
  { name = "onnx", path, external, keep = false }: DecodeOnnxOptions = {},
): OnnxModel {
  const model = parse(bytes, name);
  const { graph } = model;
  must(graph, "onnx/no-graph", () => `${name}: ${noGraph(bytes)}`, "file");
  if (!keep) refuseUnsupported(model, graph, name);
  const inFile = path === undefined ? undefined : { path, start: bytes.byteOffset };
  const read = (list: Message<"GraphProto">["input"]) => (keep ? list.filter(isTensor) : list);
  const initializers = readInitializers(graph, name, { inFile, external }, keep);
  const { opset, domains } = operatorSets(model, name);
  const nodes = graph.node.map((node, i) => nodeFromProto(node, i, name, keep));
  return {
    nodes,
    // Before IR version 4 initializers had to be listed as inputs, too.
    inputs: read(graph.input.filter((v) => !initializers.has(v.name))).map((v) =>
      valueInfo(v, `${name}: input "${v.name}"`),
    ),
    outputs: read(graph.output).map((v) => valueInfo(v, `${name}: output "${v.name}"`)),
    initializers,
    // Only informative, so what is not a tensor with a known type is left out.
    ...present(
      "valueInfo",
      graph.valueInfo.filter(isTensor).map((v) => valueInfo(v, `${name}: value "${v.name}"`)),
    ),
    opset,
    ...present("domains", domains),
    ...present("metadata", Object.fromEntries(model.metadataProps.map(({ key, value }) => [key, value]))),
    ...(graph.name !== "" && { name: graph.name }),
    ...(model.producerName !== "" && { producer: { name: model.producerName, version: model.producerVersion } }),
    ...(keep && { kept: orNotProtobuf(bytes, name, () => keptParts(bytes, model, graph, nodes, name)) }),
  };
}

/** `{ key: value }` unless the list or record is empty. */
const present = <K extends string, V extends object>(key: K, value: V): Partial<Record<K, V>> =>
  Object.keys(value).length > 0 ? ({ [key]: value } as Record<K, V>) : {};

const parse = (bytes: Uint8Array<ArrayBuffer>, name: string): Message<"ModelProto"> =>
  orNotProtobuf(bytes, name, () => {
    checkWire("ModelProto", bytes, name);
    return readMessage(new ProtoReader(bytes), "ModelProto");
  });

function orNotProtobuf<T>(bytes: Uint8Array<ArrayBuffer>, name: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (cause instanceof RepmlpError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RepmlpError(
      "onnx/not-protobuf",
      `${name}: not an ONNX model or cut short (${bytes.byteLength} bytes; ${reason}). ${hint(bytes)}`,
      "file",
      { cause },
    );
  }
}

const noGraph = (bytes: Uint8Array): string =>
  bytes.byteLength === 0
    ? "the file is empty. Fetch it again."
    : `holds no graph, so it is not an ONNX model. ${hint(bytes)}`;

/** Guesses what a file is that is often found in place of a model. */
function hint(bytes: Uint8Array): string {
  const start = String.fromCharCode(...bytes.subarray(0, 40));
  if (start.startsWith("version https://git-lfs"))
    return "It is a Git LFS pointer: fetch the real file with git lfs pull.";
  if (/^\s*<(!doctype|html)/i.test(start)) return "It is a web page: check the address it was downloaded from.";
  if (start.startsWith("PK\x03\x04")) return "It is a zip archive, perhaps a PyTorch checkpoint.";
  return "Fetch or export it again.";
}

function refuseUnsupported(model: Message<"ModelProto">, graph: Message<"GraphProto">, name: string): void {
  must(
    graph.sparseInitializer.length === 0,
    "onnx/sparse",
    () => `${name}: ${graph.sparseInitializer.length} sparse initializers are not supported. Export dense weights.`,
    "file",
  );
  must(
    model.functions.length === 0,
    "onnx/functions",
    () =>
      `${name}: ${model.functions.length} functions defined in the model are not supported. Inline them (onnx.inliner).`,
    "file",
  );
}

function readInitializers(
  graph: Message<"GraphProto">,
  name: string,
  values: StoredValues,
  keep: boolean,
): Map<string, TensorSource> {
  const initializers = new Map<string, TensorSource>();
  for (const proto of graph.initializer) {
    if (keep && !isSupported(proto.dataType)) continue;
    const where = `${name}: initializer "${proto.name}"`;
    must(!initializers.has(proto.name), "onnx/duplicate", () => `${where} occurs twice. The file is damaged.`, "file");
    initializers.set(proto.name, tensorFromProto(proto, where, values));
  }
  return initializers;
}

function operatorSets(
  { opsetImport }: Message<"ModelProto">,
  name: string,
): { opset: number; domains: Record<string, number> } {
  const versions = new Map(
    opsetImport.map(({ domain, version }) => [domain === "ai.onnx" ? "" : domain, Number(version)]),
  );
  const opset = versions.get("");
  must(
    opset !== undefined && opset >= 1 && opset < 1000,
    "onnx/opset",
    () => `${name}: the version of the standard operator set is ${opset ?? "missing"}. The file is damaged.`,
    "file",
  );
  versions.delete("");
  return { opset, domains: Object.fromEntries(versions) };
}

function nodeFromProto(proto: Message<"NodeProto">, index: number, file: string, keep: boolean): OnnxNode {
  const where = `${file}: ${proto.opType} node ${proto.name ? `"${proto.name}"` : `number ${index}`}`;
  must(proto.opType !== "", "onnx/node", () => `${where} has no operator. The file is damaged.`, "file");
  const attrs = proto.attribute.map((a) => {
    if (keep && a.t && !isSupported(a.t.dataType)) return [a.name, { unsupported: "tensor of another type" }] as const;
    return [a.name, attributeFromProto(a, `${where}, attribute "${a.name}"`)] as const;
  });
  must(
    new Set(attrs.map(([key]) => key)).size === attrs.length,
    "onnx/duplicate",
    () => `${where} has an attribute twice. The file is damaged.`,
    "file",
  );
  return {
    opType: proto.opType,
    inputs: proto.input,
    outputs: proto.output,
    name: proto.name,
    attrs: Object.fromEntries(attrs),
    ...(proto.domain !== "" && proto.domain !== "ai.onnx" && { domain: proto.domain }),
    ...(proto.docString !== "" && { doc: proto.docString }),
  };
}

const isTensor = ({ type }: Message<"ValueInfoProto">): boolean =>
  type?.tensorType !== undefined && isSupported(type.tensorType.elemType);

function valueInfo({ name, type }: Message<"ValueInfoProto">, where: string): OnnxValueInfo {
  const tensor = type?.tensorType;
  must(tensor, "onnx/value-type", () => `${where} is ${kindOf(type)}. Only tensors are supported.`, "file");
  const { elemType, shape } = tensor;
  return { name, dtype: dtypeFromElementType(elemType, where), ...(shape && { shape: shape.dim.map(dimOf) }) };
}

function kindOf(type: Message<"TypeProto"> | undefined): string {
  const kind = Object.entries(type ?? {}).find(([, there]) => there)?.[0];
  return kind ? `a ${kind.replace("Type", "")}` : "of unknown type";
}

/** Some exporters write -1 for a size that is not known. */
function dimOf({ dimValue = -1n, dimParam }: Message<"TensorShapeProto.Dimension">): OnnxDim {
  if (dimParam !== undefined) return dimParam;
  const size = Number(dimValue);
  return Number.isSafeInteger(size) && size >= 0 ? size : "";
}
