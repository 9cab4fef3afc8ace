import { stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { type ByteSink, piecesOf } from "../../checkpoint/index.ts";
import { fileSource, openSource, writeFileAtomically } from "../../checkpoint/node/index.ts";
import { RepmlpError } from "../../errors.ts";
import {
  type DecodeOnnxOptions,
  decodeOnnx,
  type ExternalOnnx,
  encodeOnnxExternal,
  encodeOnnxStream,
  type OnnxModel,
  type OpenExternal,
  onnxByteLength,
  onnxSkeleton,
  SELF,
  tensorChunks,
} from "../../onnx/index.ts";
import { dtypes, sizeOf } from "../../tensor/index.ts";

/** One ONNX file holds at most 2 GiB. */
const SINGLE_FILE_BYTES = 2e9;

export interface SaveOnnxOptions {
  /** Puts the weights into `<path>_data`. Default: only where one file cannot hold them. */
  readonly external?: boolean;
  /** From so many bytes of weights on they go into a file of their own. Default 2e9, what one ONNX file can hold. */
  readonly singleFileBytes?: number;
}

/** What was written. */
export interface SavedOnnx {
  /** The model, and its weights where they are apart. */
  readonly paths: readonly string[];
  /** Size of all files together. */
  readonly bytes: number;
}

/**
 * Writes an ONNX file, one tensor in memory at a time and large ones in pieces, through a temporary file and a rename. Models of more than 2 GB
 * get a second file `<path>_data`, the name that transformers.js looks for.
 */
export async function saveOnnx(path: string, model: OnnxModel, options: SaveOnnxOptions = {}): Promise<SavedOnnx> {
  const { singleFileBytes = SINGLE_FILE_BYTES, external = weightBytes(model) > singleFileBytes } = options;
  if (!external) {
    await writeFileAtomically(path, async (sink) => {
      for await (const chunk of encodeOnnxStream(model)) await sink.write(chunk);
    });
    return { paths: [path], bytes: onnxByteLength(model) };
  }
  const location = `${basename(path)}_data`;
  const data = join(dirname(path), location);
  const encoded = encodeOnnxExternal(model, { location });
  // The weights first: the model must never point to what is not there.
  await writeFileAtomically(data, (sink) => writeExternal(sink, encoded));
  await writeFileAtomically(path, async (sink) => sink.write(encoded.model));
  return { paths: [path, data], bytes: encoded.model.byteLength + encoded.totalBytes };
}

const weightBytes = ({ initializers }: OnnxModel): number =>
  [...initializers.values()].reduce((n, { dtype, shape }) => n + sizeOf(shape) * dtypes[dtype].bytes, 0);

async function writeExternal(sink: ByteSink, { external }: ExternalOnnx): Promise<void> {
  let at = 0;
  for (const { source, offset, length } of external) {
    if (offset > at) await sink.write(new Uint8Array(offset - at));
    for await (const chunk of tensorChunks(source)) await sink.write(chunk);
    at = offset + length;
  }
}

/** From this size on the weights of a file are left in it, as those of a second file always are. */
const LARGE_BYTES = 2 ** 20;

/** Opens an ONNX file; weights are read when they are needed, from the file as it is now: it may be replaced, not changed. */
export async function openOnnx(path: string, { keep }: Pick<DecodeOnnxOptions, "keep"> = {}): Promise<OnnxModel> {
  const external = externalOf(path);
  const skeleton = await largeSkeleton(path);
  if (skeleton) return decodeOnnx(skeleton, { name: path, external, keep });
  // Of pipes, too; a folder or a device is refused by what it is.
  const source = await openSource(path);
  const bytes = await source.read(0, source.size).finally(() => source.close?.());
  return decodeOnnx(bytes, {
    name: path,
    path: resolve(path),
    external,
    keep,
  });
}

/** The description in a large file. */
async function largeSkeleton(path: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const stats = await stat(path).catch((cause) => Promise.reject(readError(path, cause)));
  if (!stats.isFile() || stats.size < LARGE_BYTES) return undefined;
  const file = fileSource(path);
  try {
    return onnxSkeleton({ size: file.size, readSync: (offset, length) => file.readSync!(offset, length) }, SELF);
  } finally {
    file.close?.();
  }
}

const readError = (path: string, cause: NodeJS.ErrnoException): RepmlpError =>
  new RepmlpError("export/read", `${path}: cannot be read (${cause.message})`, "file", { cause });

const externalOf = (path: string): OpenExternal => {
  const files = new Map<string, ReturnType<typeof fileSource>>();
  return (location, offset, length) => {
    const file = files.get(location) ?? fileSource(location === SELF ? path : join(dirname(path), location));
    files.set(location, file);
    if (offset + length > file.size)
      throw new RepmlpError(
        "export/external",
        `${file.name}: is ${file.size} bytes long, ${path} expects ${length} at ${offset}. Copy both files again.`,
        "file",
      );
    const place = file.path === undefined ? undefined : { path: file.path, offset };
    return {
      read: () => file.read(offset, length),
      readSync: () => file.readSync!(offset, length),
      pieces: (unit) => piecesOf(file, offset, length, "a weight", unit),
      place,
    };
  };
};
