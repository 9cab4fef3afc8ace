import { narrowed } from "../pickle/machine.ts";
import { Opaque, type PickleValue } from "../pickle/values.ts";

const readers: Readonly<Record<string, (view: DataView) => PickleValue>> = {
  f8: (v) => v.getFloat64(0, true),
  f4: (v) => v.getFloat32(0, true),
  i8: (v) => narrowed(v.getBigInt64(0, true)),
  u8: (v) => narrowed(v.getBigUint64(0, true)),
  i4: (v) => v.getInt32(0, true),
  u4: (v) => v.getUint32(0, true),
  i2: (v) => v.getInt16(0, true),
  u2: (v) => v.getUint16(0, true),
  i1: (v) => v.getInt8(0),
  u1: (v) => v.getUint8(0),
  b1: (v) => v.getUint8(0) !== 0,
};

/**
 * A numpy number as a number (training scripts leave `best_acc1` as one); other dtypes stay opaque.
 *
 * @param type  the pickled `numpy.dtype`: an opaque value with arguments `("f8", …)` and state `(version, "<", …)`
 * @param raw   its little-endian bytes; Python 2 wrote them as a string
 */
export function numpyScalar(type: PickleValue, raw: PickleValue): PickleValue {
  const opaque = new Opaque("numpy.scalar");
  if (!(type instanceof Opaque) || type.type !== "numpy.dtype") return opaque;
  const [code] = type.args;
  const bigEndian = Array.isArray(type.state) && type.state[1] === ">";
  const bytes = typeof raw === "string" && raw.length <= 8 ? Uint8Array.from(raw, (c) => c.charCodeAt(0)) : raw;
  if (typeof code !== "string" || bigEndian || !(bytes instanceof Uint8Array)) return opaque;
  if (!Object.hasOwn(readers, code) || bytes.length !== Number(code[1])) return opaque;
  return readers[code](new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength));
}
