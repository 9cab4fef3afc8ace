import { writeFileAtomically } from "../checkpoint/node/index.ts";

export const writeBytes = (path: string, bytes: Uint8Array): Promise<void> =>
  writeFileAtomically(path, async (sink) => sink.write(Uint8Array.from(bytes)));

export const writeText = (path: string, text: string): Promise<void> =>
  writeBytes(path, new TextEncoder().encode(text));
