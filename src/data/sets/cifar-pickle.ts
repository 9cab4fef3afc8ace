import { latin1Bytes } from "../../checkpoint/pickle/latin1-bytes.ts";
import type { PickleHost } from "../../checkpoint/pickle/machine.ts";
import { unpickle } from "../../checkpoint/pickle/opcodes.ts";
import { Global, kindOf, Opaque, type PickleValue } from "../../checkpoint/pickle/values.ts";
import { decodeUtf8, shortened } from "../../checkpoint/text.ts";
import { must, RepmlpError } from "../../errors.ts";
import type { CifarPart } from "./cifar-part.ts";
import type { NamedBytes } from "./idx-dataset.ts";

const imageBytes = 3 * 32 * 32;

/**
 * A batch of the Python version of CIFAR-10: the pickle of a dict with `data`, uint8 `[N, 3072]`, and `labels`, a list
 * of N numbers. As distributed it comes from Python 2; one that was pickled again by Python 3 is read too.
 *
 * @throws `cifar/refused` when it names anything but what a numpy array is made of, `cifar/batch` when it is not such a
 *   dict, `checkpoint/pickle`, `checkpoint/truncated` and `checkpoint/limit` when the pickle is damaged
 */
export function pickledPart({ name, bytes }: NamedBytes): CifarPart {
  const { value, end } = unpickle(bytes, 0, name, host(name));
  if (end !== bytes.length) invalid(name, `${bytes.length - end} bytes follow the pickle`);
  if (!(value instanceof Map)) invalid(name, `the pickle holds ${kindOf(value)} instead of a dict`);
  const pixels = pixelsOf(name, item(name, value, "data"));
  const length = pixels.length / imageBytes;
  const labels = item(name, value, "labels");
  if (!Array.isArray(labels)) invalid(name, `"labels" is ${kindOf(labels)} instead of a list`);
  if (labels.length !== length) invalid(name, `${length} pictures, but ${labels.length} labels`);
  return {
    length,
    label(index) {
      const label = labels[index];
      return typeof label === "number" ? label : invalid(name, `the label of record ${index} is ${kindOf(label)}`);
    },
    picture: (index) => pixels.subarray(index * imageBytes, (index + 1) * imageBytes),
  };
}

/** What an array is made of, by the names of numpy 1; numpy 2 has them in `numpy._core`. */
const callables = new Set([
  "numpy.core.multiarray._reconstruct",
  "numpy.core.numeric._frombuffer",
  "numpy.dtype",
  "_codecs.encode",
]);

/** Names that such a pickle may hold: the above, and the class of the array. */
const names = new Set([...callables, "numpy.ndarray"]);

/** Calls become opaque values, which {@link pixelsOf} understands; every other name refuses the file. */
const host = (where: string): PickleHost => ({
  format: "a batch of CIFAR-10",
  global(module, name) {
    const path = `${module.replace(/^numpy\._core\./, "numpy.core.")}.${name}`;
    return names.has(path) ? new Global(path) : refuseName(where, `${module}.${name}`);
  },
  call(callable, args, task) {
    if (!(callable instanceof Global)) return task.fail(`${kindOf(callable)} is called`);
    if (!callables.has(callable.path)) return refuseName(where, callable.path);
    return callable.path === "_codecs.encode" ? latin1Bytes(args, task) : new Opaque(callable.path, args);
  },
  instance: (type, _, task) => task.fail(`an object of ${kindOf(type)}`),
  persistent: (_, task) => task.fail("a reference to something outside of the file"),
});

function refuseName(where: string, path: string): never {
  throw new RepmlpError(
    "cifar/refused",
    `${where}: the pickle names ${shortened(path)}, which a batch of CIFAR-10 never needs; the file is refused and ` +
      "nothing was run. Do not load it in Python unless you trust who made it.",
    "file",
  );
}

function invalid(where: string, problem: string): never {
  throw new RepmlpError("cifar/batch", `${where}: ${problem}. Download the Python version of CIFAR-10 again`, "file");
}

/** An item by its key, which Python 3 has as bytes where it read the original with `encoding="bytes"`. */
function item(where: string, dict: ReadonlyMap<PickleValue, PickleValue>, key: string): PickleValue {
  const found = [...dict].filter(([k]) => (k instanceof Uint8Array ? decodeUtf8(k) : k) === key);
  must(
    found.length === 1,
    "cifar/batch",
    () => `${where}: the dict has ${found.length} items "${key}" instead of one. Is it a batch of CIFAR-10?`,
    "file",
  );
  return found[0][1];
}

/** The bytes of a pickled uint8 array `[N, 3072]`. */
function pixelsOf(where: string, array: PickleValue): Uint8Array {
  const { shape, dtype, rowMajor, raw } = arrayOf(array) ?? invalid(where, `"data" is ${kindOf(array)}`);
  const [length, width] = Array.isArray(shape) && shape.length === 2 ? shape : [];
  if (!(dtype instanceof Opaque) || dtype.type !== "numpy.dtype" || dtype.args[0] !== "u1" || !rowMajor)
    invalid(where, `"data" is not an array of uint8 in row-major order`);
  if (typeof length !== "number" || length < 1 || width !== imageBytes)
    invalid(
      where,
      `"data" has shape [${Array.isArray(shape) ? shape.join(", ") : kindOf(shape)}], not [N, ${imageBytes}]`,
    );
  // The strings of Python 2 are bytes, which the machine reads as UTF-8 where they happen to be valid.
  const bytes = typeof raw === "string" ? new TextEncoder().encode(raw) : raw;
  if (!(bytes instanceof Uint8Array) || bytes.length !== length * imageBytes)
    invalid(where, `"data" has ${kindOf(bytes)} for ${length} pictures of ${imageBytes} bytes`);
  return bytes;
}

interface PickledArray {
  readonly shape: PickleValue;
  readonly dtype: PickleValue;
  readonly rowMajor: boolean;
  readonly raw: PickleValue;
}

/** An array's parts in either of numpy's ways to pickle it: made empty and given a state, or made from a buffer. */
function arrayOf(array: PickleValue): PickledArray | undefined {
  if (!(array instanceof Opaque)) return undefined;
  if (array.type === "numpy.core.numeric._frombuffer") {
    const [raw = null, dtype = null, shape = null, order = null] = array.args;
    return { shape, dtype, rowMajor: order === "C", raw };
  }
  if (array.type !== "numpy.core.multiarray._reconstruct" || !Array.isArray(array.state)) return undefined;
  const [, shape = null, dtype = null, columnMajor = null, raw = null] = array.state;
  return { shape, dtype, rowMajor: columnMajor === false || columnMajor === 0, raw };
}
