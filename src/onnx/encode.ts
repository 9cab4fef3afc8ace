import { fmt, must } from "../errors.ts";
import { inPieces, type Tensor, type TensorSource, tensorBytes } from "../tensor/index.ts";
import { writeAttribute } from "./attribute.ts";
import { elementTypes } from "./element-type.ts";
import type { KeptParts, OnnxDim, OnnxModel, OnnxNode, OnnxPlace, OnnxValueInfo } from "./model.ts";
import { ProtoWriter, WireType } from "./protobuf.ts";
import { DataLocation, fieldNumbers } from "./schema.ts";
import { byteLengthOf, writeInt64, writeMessage, writeRawDataFrame, writeString, writeTensorHeader } from "./wire.ts";

const modelField = fieldNumbers("ModelProto");
const operatorSetField = fieldNumbers("OperatorSetIdProto");
const entryField = fieldNumbers("StringStringEntryProto");
const graphField = fieldNumbers("GraphProto");
const nodeField = fieldNumbers("NodeProto");
const valueInfoField = fieldNumbers("ValueInfoProto");
const typeField = fieldNumbers("TypeProto");
const tensorTypeField = fieldNumbers("TypeProto.Tensor");
const shapeField = fieldNumbers("TensorShapeProto");
const dimField = fieldNumbers("TensorShapeProto.Dimension");
const tensorField = fieldNumbers("TensorProto");

/** A protobuf message is limited to 2^31 - 1 bytes. */
const maxBytes = 2 ** 31 - 1;

/** Bytes that are ready, or a tensor whose bytes are read when their turn comes. */
type Piece = Uint8Array<ArrayBuffer> | TensorSource;

interface Layout {
  readonly pieces: readonly Piece[];
  readonly byteLength: number;
}

/** Where the values of initializers are that are not in the model. */
type Placement = NonNullable<OnnxModel["placed"]>;

/**
 * The model as one ONNX file with all values inside, but for those that are `placed` elsewhere.
 *
 * @throws RepmlpError `onnx/too-large` beyond 2 GB, `onnx/attribute` for values that ONNX cannot hold
 */
export function encodeOnnx(model: OnnxModel): Uint8Array<ArrayBuffer> {
  const layout = layOut(model);
  return concat(syncChunks(layout), layout.byteLength);
}

/** The bytes of {@link encodeOnnx} in pieces; holds one initializer at a time. Checks the size before the first piece. */
export function encodeOnnxChunks(model: OnnxModel): Iterable<Uint8Array<ArrayBuffer>> {
  return syncChunks(layOut(model));
}

/**
 * As {@link encodeOnnxChunks}, for initializers that can only be read asynchronously; large ones come in small pieces where
 * they can. Each piece is only valid until the next one is asked for.
 */
export function encodeOnnxStream(model: OnnxModel): AsyncIterable<Uint8Array<ArrayBuffer>> {
  return asyncChunks(layOut(model));
}

/** Size of the encoded file in bytes; reads no values. */
export const onnxByteLength = (model: OnnxModel): number => layOut(model).byteLength;

export interface ExternalTensor {
  readonly name: string;
  readonly source: TensorSource;
  /** First byte in the data file. Gaps between tensors are to be filled with zeros. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
}

export interface ExternalOnnx {
  readonly model: Uint8Array<ArrayBuffer>;
  /** In file order. */
  readonly external: readonly ExternalTensor[];
  /** Size of the data file. */
  readonly totalBytes: number;
}

/**
 * The model with its large initializers in a second file, which the caller streams: for each entry the bytes of
 * `source` at `offset`.
 *
 * @param location   name of the data file, relative to the model
 * @param threshold  initializers of at least so many bytes move out; default 1024, so that shapes and other small
 *                   constants, which ONNX Runtime looks at while loading, stay inside
 * @throws RepmlpError `onnx/too-large` when what stays inside exceeds 2 GB
 */
export function encodeOnnxExternal(
  model: OnnxModel,
  { location, threshold = 1024 }: { readonly location: string; readonly threshold?: number },
): ExternalOnnx {
  const external: ExternalTensor[] = [];
  let end = 0;
  for (const [name, source] of model.initializers) {
    const length = byteLengthOf(source);
    if (length < threshold || length === 0) continue;
    const offset = Math.ceil(end / alignment(length)) * alignment(length);
    external.push({ name, source, offset, length });
    end = offset + length;
  }
  const placement = new Map(external.map(({ name, offset }) => [name, { location, offset }]));
  const layout = layOut(model, placement);
  return { model: concat(syncChunks(layout), layout.byteLength), external, totalBytes: end };
}

/** Large tensors start on a page, so that the file can be mapped; small ones on a cache line. */
const alignment = (length: number): number => (length >= 2 ** 20 ? 4096 : 64);

function concat(chunks: Iterable<Uint8Array>, byteLength: number): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(byteLength);
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.byteLength;
  }
  return all;
}

function* syncChunks({ pieces }: Layout): Generator<Uint8Array<ArrayBuffer>> {
  for (const piece of pieces) yield piece instanceof Uint8Array ? piece : bytesOf(piece, piece.readSync());
}

async function* asyncChunks({ pieces }: Layout): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  for (const piece of pieces)
    if (piece instanceof Uint8Array) yield piece;
    else yield* tensorChunks(piece);
}

/** The bytes of a tensor as they stand in a file; each piece is only valid until the next one is asked for. */
export async function* tensorChunks(source: TensorSource): AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
  if (!inPieces(source)) {
    yield bytesOf(source, await source.read());
    return;
  }
  const announced = byteLengthOf(source);
  let read = 0;
  for await (const bytes of source.pieces!()) {
    read += bytes.byteLength;
    yield bytes;
  }
  must(
    read === announced,
    "onnx/source",
    () =>
      `onnx: a tensor announced as ${source.dtype} ${fmt(source.shape)}, ${announced} bytes, was read as ${read}. The file it comes from has changed.`,
    "model",
  );
}

/** Lengths were written before the values are read, so a source that changed its mind would corrupt the file. */
function bytesOf(source: TensorSource, tensor: Tensor): Uint8Array<ArrayBuffer> {
  must(
    tensor.dtype === source.dtype && tensor.byteLength === byteLengthOf(source),
    "onnx/source",
    () =>
      `onnx: a tensor announced as ${source.dtype} ${fmt(source.shape)} was read as ${tensor.dtype} ${fmt(tensor.shape)}. The file it comes from has changed.`,
    "model",
  );
  return tensorBytes(tensor);
}

function layOut(model: OnnxModel, placement: Placement = model.placed ?? new Map()): Layout {
  const weights = [...model.initializers].flatMap(([name, source]) => initializerPieces(name, source, placement));
  const { kept } = model;
  const graph = [kept ? keptGraphBytes(model, kept) : graphBytes(model), ...weights];
  const graphLength = total(graph);
  const head = kept?.model ?? modelBytes(model);
  const frame = new ProtoWriter();
  const byteLength = head.byteLength + 6 + graphLength;
  must(
    byteLength <= maxBytes,
    "onnx/too-large",
    () =>
      `onnx: the model needs ${(byteLength / 1e9).toFixed(2)} GB, a single ONNX file holds at most 2.15 GB. Write it with external data.`,
    "model",
  );
  const pieces = [head, frame.tag(modelField.graph, WireType.LengthDelimited).uint32(graphLength).finish(), ...graph];
  return { pieces, byteLength: total(pieces) };
}

const total = (pieces: readonly Piece[]): number =>
  pieces.reduce((n, piece) => n + (piece instanceof Uint8Array ? piece.byteLength : byteLengthOf(piece)), 0);

function modelBytes({ nodes, opset, domains, metadata = {}, producer }: OnnxModel): Uint8Array<ArrayBuffer> {
  const writer = new ProtoWriter();
  writeInt64(writer, modelField.irVersion, irVersionFor(opset));
  writeString(writer, modelField.producerName, producer?.name ?? "repmlp");
  if (producer?.version) writeString(writer, modelField.producerVersion, producer.version);
  const used = nodes.flatMap(({ domain }) => (domain ? [[domain, 1] as const] : []));
  for (const [domain, version] of Object.entries({ "": opset, ...Object.fromEntries(used), ...domains }))
    writeMessage(writer, modelField.opsetImport, (w) => {
      writeString(w, operatorSetField.domain, domain);
      writeInt64(w, operatorSetField.version, version);
    });
  writeEntries(writer, modelField.metadataProps, metadata);
  return writer.finish();
}

function writeEntries(writer: ProtoWriter, field: number, entries: Readonly<Record<string, string | number>>): void {
  for (const [key, value] of Object.entries(entries))
    writeMessage(writer, field, (w) => {
      writeString(w, entryField.key, key);
      writeString(w, entryField.value, `${value}`);
    });
}

/** The oldest file format in which an operator set may be used, but no older than 8, which every reader of today knows. */
const irVersionFor = (opset: number): number => (opset >= 21 ? 10 : opset >= 19 ? 9 : 8);

function graphBytes({ name, nodes, inputs, outputs, valueInfo = [] }: OnnxModel): Uint8Array<ArrayBuffer> {
  const writer = new ProtoWriter();
  for (const node of nodes) writeMessage(writer, graphField.node, (w) => writeNode(w, node));
  writeString(writer, graphField.name, name ?? "graph");
  const lists = [
    [graphField.input, inputs],
    [graphField.output, outputs],
    [graphField.valueInfo, valueInfo],
  ] as const;
  for (const [field, values] of lists)
    for (const value of values) writeMessage(writer, field, (w) => writeValueInfo(w, value));
  return writer.finish();
}

/** As {@link graphBytes}, with all that was kept of the file; what only concerned values that are gone is left out. */
function keptGraphBytes({ nodes, initializers }: OnnxModel, kept: KeptParts): Uint8Array<ArrayBuffer> {
  const writer = new ProtoWriter();
  const made = new Set(nodes.flatMap(({ outputs }) => outputs));
  for (const node of nodes) {
    const raw = kept.nodes.get(node);
    if (raw) writer.raw(raw);
    else writeMessage(writer, graphField.node, (w) => writeNode(w, node));
  }
  writer.raw(kept.graph);
  const listed = new Set(kept.inputs.map(([name]) => name));
  const oldFormat = kept.irVersion < 4;
  for (const [name, bytes] of kept.inputs)
    if (!kept.initialized.has(name) || initializers.has(name) || kept.unread.has(name)) writer.raw(bytes);
  // The old format wants every initializer among the inputs.
  if (oldFormat)
    for (const [name, { dtype, shape }] of initializers)
      if (!listed.has(name)) writeMessage(writer, graphField.input, (w) => writeValueInfo(w, { name, dtype, shape }));
  for (const [name, bytes] of kept.valueInfo) if (made.has(name)) writer.raw(bytes);
  for (const bytes of kept.tensors) writer.raw(bytes);
  return writer.finish();
}

function writeNode(writer: ProtoWriter, node: OnnxNode): void {
  const { opType, name, inputs, outputs, attrs, domain, doc } = node;
  for (const input of inputs) writeString(writer, nodeField.input, input);
  for (const output of outputs) writeString(writer, nodeField.output, output);
  writeString(writer, nodeField.name, name);
  writeString(writer, nodeField.opType, opType);
  for (const [key, value] of Object.entries(attrs))
    writeMessage(writer, nodeField.attribute, (w) => writeAttribute(w, key, value, node));
  if (doc) writeString(writer, nodeField.docString, doc);
  if (domain) writeString(writer, nodeField.domain, domain);
}

function writeValueInfo(writer: ProtoWriter, { name, dtype, shape }: OnnxValueInfo): void {
  writeString(writer, valueInfoField.name, name);
  writeMessage(writer, valueInfoField.type, (type) =>
    writeMessage(type, typeField.tensorType, (tensor) => {
      tensor.tag(tensorTypeField.elemType, WireType.Varint).int32(elementTypes[dtype]);
      if (!shape) return;
      writeMessage(tensor, tensorTypeField.shape, (w) => {
        for (const dim of shape) writeMessage(w, shapeField.dim, (d) => writeDim(d, dim));
      });
    }),
  );
}

function writeDim(writer: ProtoWriter, dim: OnnxDim): void {
  if (typeof dim === "number") writeInt64(writer, dimField.dimValue, dim);
  else if (dim !== "") writeString(writer, dimField.dimParam, dim);
}

/** That the values of a tensor are `length` bytes of another file. */
export function writePlace(writer: ProtoWriter, place: OnnxPlace, length: number): void {
  writeEntries(writer, tensorField.externalData, { ...place, length });
  writer.tag(tensorField.dataLocation, WireType.Varint).int32(DataLocation.EXTERNAL);
}

/** The header of an initializer, framed, and then its values as a piece of their own. */
function initializerPieces(name: string, source: TensorSource, placement: Placement): Piece[] {
  const length = byteLengthOf(source);
  const outside = placement.get(name);
  const header = new ProtoWriter();
  writeTensorHeader(header, source.dtype, source.shape, name);
  if (outside) writePlace(header, outside, length);
  else writeRawDataFrame(header, clamp(length));
  const headerBytes = header.finish();
  const inside = outside ? 0 : length;
  const frame = new ProtoWriter()
    .tag(graphField.initializer, WireType.LengthDelimited)
    .uint32(clamp(headerBytes.byteLength + inside))
    .raw(headerBytes)
    .finish();
  return inside === 0 ? [frame] : [frame, source];
}

/** Lengths beyond 32 bits are reported for the model as a whole, a little later. */
const clamp = (length: number): number => Math.min(length, 0xffffffff);
