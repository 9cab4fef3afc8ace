import { realpath } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { checksumsInThread } from "../../checkpoint/node/crc32-thread.ts";
import type { OnnxModel, OnnxPlace } from "../../onnx/index.ts";
import { type CompileOptions, compileModel, type Program } from "../../runtime/index.ts";
import { dtypes, sizeOf, type TensorSource } from "../../tensor/index.ts";

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
  const { folder, placed } = await placesOf(model.initializers);
  if (folder === undefined || (options.device ?? "cpu") !== "cpu") return compileModel(model, options);
  const checksums = await checksumsInThread(model.initializers.values());
  const { session } = options;
  const extra = { ...session?.extra, [FOLDER_OPTION]: folder };
  const program = await compileModel({ ...model, placed }, { ...options, session: { ...session, extra } });
  try {
    await checksums.done;
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
}

async function placesOf(initializers: OnnxModel["initializers"]): Promise<Places> {
  const placed = new Map<string, OnnxPlace>();
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
  }
  return { folder, placed };
}

const bytesOf = ({ dtype, shape }: TensorSource): number => sizeOf(shape) * dtypes[dtype].bytes;
