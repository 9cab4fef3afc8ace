const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Text of UTF-8 bytes, `undefined` when they are not valid. */
export function decodeUtf8(bytes: Uint8Array): string | undefined {
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}

/** A key or name from a file, cut so that a hostile one does not fill the screen. */
export const shortened = (text: string, max = 120): string =>
  text.length <= max ? text : `${text.slice(0, max)}… (${text.length} characters)`;

/** Bytes as text, one character each. */
export function latin1(bytes: Uint8Array): string {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return text;
}
