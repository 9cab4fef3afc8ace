import type { PickleTask } from "./machine.ts";
import { kindOf, type PickleValue } from "./values.ts";

/** `_codecs.encode(text, "latin1")` is how Python 3 writes bytes in protocol 2. */
export function latin1Bytes([text, encoding]: PickleValue[], task: PickleTask): Uint8Array {
  if (typeof text !== "string" || (encoding !== "latin1" && encoding !== "latin-1"))
    return task.fail(`bytes are made of ${kindOf(text)} by encoding ${kindOf(encoding)}`);
  task.charge(text.length);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}
