import { expect, test } from "vitest";
import { RepmlpError } from "../../src/errors.ts";
import { tensorBytes } from "../../src/tensor/index.ts";
import { fixture, open } from "./support.ts";

const contentOf = async (bytes: Uint8Array<ArrayBuffer>): Promise<string> => {
  const { entries } = await open(bytes);
  return [...entries]
    .map(
      ([key, tensor]) =>
        `${key} ${tensor.dtype} ${tensor.shape} ${Buffer.from(tensorBytes(tensor.readSync())).toString("hex")}`,
    )
    .join("\n");
};

// The checksums cover the data; this shows that everything else in a zip container is either checked or without effect.
test.for([
  { name: "plain_zip.pth", step: 2 },
  { name: "deflated_zip.pth", step: 5 },
  { name: "views_zip.pth", step: 5 },
])("$name: one wrong byte anywhere is refused, or changes nothing", async ({ name, step }) => {
  const bytes = fixture(name);
  const whole = await contentOf(bytes);
  let refused = 0;
  for (let at = 0; at < bytes.length; at += step) {
    const original = bytes[at];
    bytes[at] ^= 1 << (at % 8);
    try {
      expect(await contentOf(bytes), `byte ${at}`).toBe(whole);
    } catch (error) {
      if (!(error instanceof RepmlpError)) throw error;
      refused += step;
    }
    bytes[at] = original;
  }
  expect(refused).toBeGreaterThan(bytes.length / 2);
});
