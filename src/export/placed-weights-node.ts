import { realpath } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { crc32InThread } from "../checkpoint/crc32-thread-node.ts";
import type { OnnxModel, OnnxPlace } from "../onnx/index.ts";
import { type CompileOptions, compileModel, type Program } from "../runtime/index.ts";
import { dtypes, type FilePlace, sizeOf, type TensorSource } from "../tensor/index.ts";

/** Smaller ones are looked at while a session is made, and cost nothing. */
const SMALLEST = 1024;

/** The session option that says where external data lies. */
const FOLDER_OPTION = "session.model_external_initializers_file_folder_path";

/**
 * As `compileModel`, but ONNX Runtime maps weights that lie in a file just so, which saves reading them, packing them
 * into a model and unpacking them again. Their checksums, where the file has any, are compared in the meantime.
 *
 * The file may be deleted or replaced afterwards, but must not be written into as long as the program is in use: what
 * the runtime does not pack for its kernels stays mapped.
 */
export async function compilePlaced(model: OnnxModel, options: CompileOptions = {}): Promise<Program> {
  const { folder, placed, checks } = await placesOf(model.initializers);
  if (folder === undefined || (options.device ?? "cpu") !== "cpu") return compileModel(model, options);
  const checked = compared(checks);
  checked.catch(() => {}); // told below, unless there is no program
  const { session } = options;
  const extra = { ...session?.extra, [FOLDER_OPTION]: folder };
  const program = await compileModel({ ...model, placed }, { ...options, session: { ...session, extra } });
  try {
    await checked;
    return program;
  } catch (error) {
    await program.dispose();
    throw error;
  }
}

interface Places {
  /** Of the files; undefined when there are none. */
  readonly folder: string | undefined;
  readonly placed: ReadonlyMap<string, OnnxPlace>;
  /** Checksums by file and place; parts of one stored tensor share theirs. */
  readonly checks: ReadonlyMap<string, Check>;
}

type Check = NonNullable<FilePlace["checksum"]> & { readonly file: string };

async function placesOf(initializers: OnnxModel["initializers"]): Promise<Places> {
  const placed = new Map<string, OnnxPlace>();
  const checks = new Map<string, Check>();
  const files = new Map<string, string>();
  let folder: string | undefined;
  for (const [name, source] of initializers) {
    const place = bytesOf(source) < SMALLEST ? undefined : await source.place?.();
    if (!place) continue;
    // The runtime follows no links out of the folder.
    const file = files.get(place.path) ?? (await realpath(place.path));
    files.set(place.path, file);
    folder ??= dirname(file);
    // A session has one folder; what lies elsewhere goes into the model.
    if (dirname(file) !== folder) continue;
    placed.set(name, { location: basename(file), offset: place.offset });
    if (place.checksum) checks.set(`${file}:${place.checksum.offset}`, { ...place.checksum, file });
  }
  return { folder, placed, checks };
}

const bytesOf = ({ dtype, shape }: TensorSource): number => sizeOf(shape) * dtypes[dtype].bytes;

async function compared(checks: Places["checks"]): Promise<void> {
  for (const file of new Set([...checks.values()].map((check) => check.file))) {
    const own = [...checks.values()].filter((check) => check.file === file);
    const found = await crc32InThread(
      file,
      own.map(({ offset, length }) => ({ offset, length })),
    );
    for (const [i, { confirm }] of own.entries()) confirm(found[i]);
  }
}
