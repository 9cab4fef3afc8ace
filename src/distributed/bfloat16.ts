import type { Communicator } from "./communicator.ts";

/**
 * {@link Communicator.allReduce} of a sum with half of the bytes: values travel as bfloat16 and are added in float32, each
 * process a part of them (a reduce-scatter), whose sums, rounded once more, all get.
 *
 * Every value and every sum is rounded to 8 bits: the error of a sum is at most 2⁻⁸ of the sum of its magnitudes plus 2⁻⁸ of
 * itself. Every process gets the same bits. Values that are not finite stay so.
 */
export async function allReduceBfloat16(group: Communicator, values: Float32Array<ArrayBuffer>): Promise<void> {
  const { size } = group;
  const each = Math.ceil(values.length / size);
  const sent = new Uint16Array(each * size);
  round(values, sent);
  const received = asBits(await group.allToAll(asBytes(sent)));
  const sum = new Float32Array(each);
  for (let rank = 0; rank < size; rank++) addTo(sum, received.subarray(rank * each, (rank + 1) * each));
  const own = new Uint16Array(each);
  round(sum, own);
  for (const [rank, bytes] of (await group.allGather(asBytes(own))).entries()) {
    const part = values.subarray(rank * each, (rank + 1) * each);
    part.fill(0);
    addTo(part, asBits(bytes));
  }
}

const asBytes = ({ buffer, byteOffset, byteLength }: Uint16Array<ArrayBuffer>): Uint8Array<ArrayBuffer> =>
  new Uint8Array(buffer, byteOffset, byteLength);

const asBits = (bytes: Uint8Array<ArrayBuffer>): Uint16Array<ArrayBuffer> => new Uint16Array(bytes.buffer);

/** To the nearest, ties to even, as `numberToBfloat16` does: on the bits, a tensor at a time. */
function round(values: Float32Array<ArrayBuffer>, into: Uint16Array<ArrayBuffer>): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) {
    const b = bits[i];
    // What is no number must not be rounded to an infinity.
    into[i] = (b & 0x7fffffff) > 0x7f800000 ? (b >>> 16) | 0x40 : (b + 0x7fff + ((b >>> 16) & 1)) >>> 16;
  }
}

function addTo(sum: Float32Array<ArrayBuffer>, bits: Uint16Array<ArrayBuffer>): void {
  const one = new Uint32Array(1);
  const value = new Float32Array(one.buffer);
  for (let i = 0; i < sum.length; i++) {
    one[0] = bits[i] << 16;
    sum[i] += value[0];
  }
}
