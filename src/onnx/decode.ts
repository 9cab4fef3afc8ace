import { must, RepmlpError } from "../errors.ts";
import type { TensorSource } from "../tensor/index.ts";
import { attributeFromProto } from "./attribute.ts";
import { dtypeFromElementType, isSupported } from "./element-type.ts";
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
  { name = "onnx", path, external }: DecodeOnnxOptions = {},
): OnnxModel {
  const model = parse(bytes, name);
  const { graph } = model;
  must(graph, "onnx/no-graph", () => `${name}: ${noGraph(bytes)}`, "file");
  refuseUnsupported(model, graph, name);
  const inFile = path === undefined ? undefined : { path, start: bytes.byteOffset };
  const initializers = readInitializers(graph, name, { inFile, external });
  const { opset, domains } = operatorSets(model, name);
  return {
    nodes: graph.node.map((node, i) => nodeFromProto(node, i, name)),
    // Before IR version 4 initializers had to be listed as inputs, too.
    inputs: graph.input.filter((v) => !initializers.has(v.name)).map((v) => valueInfo(v, `${name}: input "${v.name}"`)),
    outputs: graph.output.map((v) => valueInfo(v, `${name}: output "${v.name}"`)),
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
  };
}

/** `{ key: value }` unless the list or record is empty. */
const present = <K extends string, V extends object>(key: K, value: V): Partial<Record<K, V>> =>
  Object.keys(value).length > 0 ? ({ [key]: value } as Record<K, V>) : {};

function parse(bytes: Uint8Array<ArrayBuffer>, name: string): Message<"ModelProto"> {
  try {
    checkWire("ModelProto", bytes, name);
    return readMessage(new ProtoReader(bytes), "ModelProto");
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

function readInitializers(graph: Message<"GraphProto">, name: string, values: StoredValues): Map<string, TensorSource> {
  const initializers = new Map<string, TensorSource>();
  for (const proto of graph.initializer) {
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

function nodeFromProto(proto: Message<"NodeProto">, index: number, file: string): OnnxNode {
  const where = `${file}: ${proto.opType} node ${proto.name ? `"${proto.name}"` : `number ${index}`}`;
  must(proto.opType !== "", "onnx/node", () => `${where} has no operator. The file is damaged.`, "file");
  const attrs = proto.attribute.map((a) => [a.name, attributeFromProto(a, `${where}, attribute "${a.name}"`)] as const);
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
