import { must } from "../errors.ts";
import { isSupported } from "./element-type.ts";
import type { KeptParts, OnnxNode } from "./model.ts";
import { ProtoReader, ProtoWriter, WireType } from "./protobuf.ts";
import { fieldNumbers, type Message } from "./schema.ts";
import { SELF } from "./skeleton.ts";

const modelField = fieldNumbers("ModelProto");
const graphField = fieldNumbers("GraphProto");
const nodeField = fieldNumbers("NodeProto");
const valueInfoField = fieldNumbers("ValueInfoProto");
/** Sub-graphs of an attribute, and the operator set of a function: not in the schema, since nothing else reads them. */
const [SUBGRAPH, SUBGRAPHS, FUNCTION_DOMAIN] = [6, 11, 10];

/** Sub-graphs in sub-graphs, of which real models have two or three. */
const MAX_DEPTH = 32;

/** A field as it stands in the file, and what is in it. */
interface RawField {
  readonly number: number;
  readonly whole: Uint8Array<ArrayBuffer>;
  readonly content: Uint8Array<ArrayBuffer>;
}

/** The fields of a message. Throws RangeError for broken framing. */
function* fieldsIn(bytes: Uint8Array<ArrayBuffer>): Generator<RawField, void, undefined> {
  const reader = new ProtoReader(bytes);
  while (reader.pos < reader.end) {
    const start = reader.pos;
    const [number, type] = reader.tag();
    let from = reader.pos;
    if (type === WireType.LengthDelimited) {
      const end = reader.partEnd();
      from = reader.pos;
      reader.pos = end;
    } else reader.skip(type);
    yield { number, whole: bytes.subarray(start, reader.pos), content: bytes.subarray(from, reader.pos) };
  }
}

/**
 * What a file says beyond what is read of it. `nodes` are those made of the messages of `graph`, in order.
 *
 * @throws RepmlpError `onnx/functions` for a function that stands for a standard operator, `onnx/parts` for a graph in
 *   several pieces, `onnx/bomb` for sub-graphs without end
 */
export function keptParts(
  bytes: Uint8Array<ArrayBuffer>,
  model: Message<"ModelProto">,
  graph: Message<"GraphProto">,
  nodes: readonly OnnxNode[],
  name: string,
): KeptParts {
  const fields = [...fieldsIn(bytes)];
  const graphs = fields.filter(({ number }) => number === modelField.graph);
  must(
    graphs.length === 1,
    "onnx/parts",
    () => `${name}: its graph comes in ${graphs.length} parts. Save it again.`,
    "file",
  );
  for (const { number, content } of fields) if (number === modelField.functions) mustNotRedefine(content, name);
  const [head, rest] = [new ProtoWriter(), new ProtoWriter()];
  for (const field of fields) if (field.number !== modelField.graph) head.raw(field.whole);
  const raw = new WeakMap<OnnxNode, Uint8Array<ArrayBuffer>>();
  const captured = new Map<OnnxNode, readonly string[]>();
  const tensors: Uint8Array<ArrayBuffer>[] = [];
  const unread = new Set<string>();
  const inputs: [string, Uint8Array<ArrayBuffer>][] = [];
  const valueInfo: [string, Uint8Array<ArrayBuffer>][] = [];
  let [node, tensor] = [0, 0];
  for (const { number, whole, content } of fieldsIn(graphs[0].content)) {
    if (number === graphField.node) {
      const made = nodes[node++];
      raw.set(made, whole);
      const names = new Set<string>();
      capturedBy(content, names, name, 0);
      if (names.size) captured.set(made, [...names]);
    } else if (number === graphField.initializer) {
      const { dataType, name: key } = graph.initializer[tensor++];
      if (isSupported(dataType)) continue;
      tensors.push(whole);
      unread.add(key);
    } else if (number === graphField.input) inputs.push([nameOf(content), whole]);
    else if (number === graphField.valueInfo) valueInfo.push([nameOf(content), whole]);
    else rest.raw(whole);
  }
  const initialized = new Set(graph.initializer.map((t) => t.name));
  return {
    irVersion: Number(model.irVersion),
    model: head.finish(),
    graph: rest.finish(),
    nodes: raw,
    captured,
    tensors,
    unread,
    initialized,
    inputs,
    valueInfo,
    outputs: graph.output.map((v) => v.name),
    external: graph.initializer.some(({ externalData }) =>
      externalData.some(({ key, value }) => key === "location" && value !== SELF),
    ),
    fed: fedInitializers(
      inputs.map(([key]) => key),
      initialized,
    ),
  };
}

/**
 * Initializers that are listed as inputs, so that they can be fed. Where all are, it says nothing: before version 4 of the
 * format they had to be, and exporters went on with it for some time.
 */
function fedInitializers(inputs: readonly string[], initialized: ReadonlySet<string>): Set<string> {
  const listed = new Set(inputs.filter((key) => initialized.has(key)));
  return listed.size === initialized.size ? new Set() : listed;
}

const text = new TextDecoder("utf-8", { ignoreBOM: true });

function nameOf(valueInfo: Uint8Array<ArrayBuffer>): string {
  let name = "";
  for (const { number, content } of fieldsIn(valueInfo))
    if (number === valueInfoField.name) name = text.decode(content);
  return name;
}

/** All names that the sub-graphs of a node read; those that they make themselves are among them, which does no harm. */
function capturedBy(node: Uint8Array<ArrayBuffer>, names: Set<string>, file: string, depth: number): void {
  must(
    depth <= MAX_DEPTH,
    "onnx/bomb",
    () => `${file}: more than ${MAX_DEPTH} sub-graphs in sub-graphs. It is hostile.`,
    "file",
  );
  for (const attribute of fieldsIn(node)) {
    if (attribute.number !== nodeField.attribute) continue;
    for (const { number, content } of fieldsIn(attribute.content))
      if (number === SUBGRAPH || number === SUBGRAPHS) readBy(content, names, file, depth + 1);
  }
}

function readBy(graph: Uint8Array<ArrayBuffer>, names: Set<string>, file: string, depth: number): void {
  for (const { number, content } of fieldsIn(graph)) {
    if (number === graphField.output) names.add(nameOf(content));
    if (number !== graphField.node) continue;
    for (const part of fieldsIn(content)) if (part.number === nodeField.input) names.add(text.decode(part.content));
    capturedBy(content, names, file, depth);
  }
}

/** A function of the standard domain would give a standard operator another meaning. */
function mustNotRedefine(definition: Uint8Array<ArrayBuffer>, file: string): void {
  let domain = "";
  for (const { number, content } of fieldsIn(definition)) if (number === FUNCTION_DOMAIN) domain = text.decode(content);
  must(
    domain !== "" && domain !== "ai.onnx",
    "onnx/functions",
    () => `${file}: it defines a function in the standard operator set, whose operators it could change. Inline it.`,
    "file",
  );
}
