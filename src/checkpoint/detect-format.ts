import { RepmlpError } from "../errors.ts";
import type { ByteSource } from "./byte-source.ts";
import { refuse } from "./file-error.ts";
import { unpickle } from "./pickle/opcodes.ts";
import { type Reading, readRange } from "./reading.ts";
import { latin1 } from "./text.ts";
import { torchHost } from "./torch/callables.ts";

export type CheckpointFormat = "pth-zip" | "pth-legacy" | "safetensors";

/** How much of a file is looked at. */
const HEAD = 2 ** 16;

/** The instruction that opens a pickle of protocol 2 or later. */
const PICKLE_PROTOCOL = 0x80;

/** Begins the header of a safetensors file, a JSON object. */
const OPEN_BRACE = 0x7b;

/** Things that often carry a checkpoint's name: what their first bytes hold, where, and what to tell. */
const impostors: readonly (readonly [magic: string, at: number, says: string])[] = [
  ["version https://git-lfs", 0, "is a Git LFS pointer, not the file itself. Fetch it with `git lfs pull`"],
  ["<!doctype", 0, "is a web page: the download was answered with an error page. Get the file again"],
  ["<html", 0, "is a web page: the download was answered with an error page. Get the file again"],
  ["\x1f\x8b", 0, "is compressed with gzip. Unpack it first"],
  ["\x89hdf\r\n", 0, "is an HDF5 (Keras) file. Convert it to safetensors first"],
  ["\x93numpy", 0, "is a numpy array. Save a state dict with torch.save"],
  ["ustar", 257, "is a tar file (as PyTorch wrote before 0.1.10). Save it again with a newer PyTorch"],
];

/**
 * Tells the format from a file's first bytes.
 *
 * @throws RepmlpError `checkpoint/not-a-checkpoint`, saying what the file is where that is known; `checkpoint/refused`
 *   when it is a bare pickle that names a callable to be refused
 */
export function* detectFormat(source: ByteSource): Reading<CheckpointFormat> {
  const { name, size } = source;
  if (size === 0) return refuse("not-a-checkpoint", `${name}: is empty (0 bytes). Get the file again.`);
  const head = yield* readRange(source, 0, Math.min(size, HEAD), "the first bytes");
  const text = latin1(head.subarray(0, 512));
  if (text.startsWith("PK\x03\x04") || text.startsWith("PK\x05\x06")) return "pth-zip";
  // A header of safetensors may be of such a length that the file begins like a pickle; none of those has a "{" there.
  if (startsHeader(head, size)) return "safetensors";
  if (head[0] === PICKLE_PROTOCOL && head[1] >= 2 && head[1] <= 5) return "pth-legacy";
  if (text[8] === "{" || name.endsWith(".safetensors")) return "safetensors";
  refuseBarePickle(name, head);
  const lower = text.toLowerCase();
  const known = name.endsWith(".onnx")
    ? "is an ONNX model. Read its weights with onnxWeights(await openOnnx(path))"
    : impostors.find(([magic, at]) => lower.startsWith(magic, at))?.[2];
  return refuse(
    "not-a-checkpoint",
    `${name}: ${known ?? `is neither a PyTorch (.pth) nor a safetensors file; it has ${size} bytes and starts with ${start(text)}`}.`,
  );
}

/** Whether the first eight bytes are the length of a JSON object that the file has room for. */
function startsHeader(head: Uint8Array<ArrayBuffer>, size: number): boolean {
  if (head.length < 9 || head[8] !== OPEN_BRACE) return false;
  return new DataView(head.buffer, head.byteOffset, 8).getBigUint64(0, true) <= BigInt(size - 8);
}

const start = (text: string): string => JSON.stringify(text.slice(0, 16));

/** A pickle of protocol 0 has no mark of its own; `torch.load` would run it, so what it calls is worth naming. */
function refuseBarePickle(name: string, head: Uint8Array<ArrayBuffer>): void {
  try {
    unpickle(
      head,
      0,
      name,
      torchHost(name, () => null),
    );
  } catch (error) {
    // Everything else that is wrong with it only means that it is no pickle.
    if (!(error instanceof RepmlpError) || error.code === "checkpoint/refused") throw error;
  }
}
