import { expect, test } from "vitest";
import { fuzz, outcome, seeds } from "./fuzzing.ts";

test("5,000 damaged files: each is read or refused, none crashes or hangs", async () => {
  const codes = new Set<string>();
  for await (const { seed, code, crash, milliseconds } of fuzz(5000, 1)) {
    expect(crash, seed).toBeUndefined();
    expect(milliseconds, seed).toBeLessThan(2000);
    codes.add(code ?? "read");
  }
  // That the mutations reach all parts of the readers.
  for (const part of ["pickle", "zip", "crc", "safetensors", "truncated", "refused", "tensor", "storage-length"])
    expect([...codes]).toContain(`checkpoint/${part}`);
  expect(codes).toContain("read");
});

test("the files they are made from are what they should be", async () => {
  for (const { name, content, pack } of await seeds()) {
    const { crash } = await outcome(await pack(content), name);
    expect(crash, name).toBeUndefined();
  }
});
