import { describe, expect, test } from "vitest";
import { keysOfJson } from "../../src/checkpoint/safetensors/json-keys.ts";
import { concat, failure, open } from "./support.ts";

function file(header: string, data = 0): Uint8Array<ArrayBuffer> {
  const json = Buffer.from(header, "utf8");
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(json.length));
  return concat(head, json, new Uint8Array(data));
}

const f32 = (shape: string, begin: number, end: number) =>
  `{"dtype":"F32","shape":${shape},"data_offsets":[${begin},${end}]}`;

describe("headers that are refused", () => {
  test.for<[name: string, bytes: Uint8Array<ArrayBuffer>, says: RegExp]>([
    ["a key twice", file(`{"a":${f32("[1]", 0, 4)},"a":${f32("[1]", 4, 8)}}`, 8), /key "a" twice/],
    ["a key twice, once escaped", file(`{"a":${f32("[1]", 0, 4)},"\\u0061":${f32("[1]", 4, 8)}}`, 8), /key "a" twice/],
    ["a field twice", file(`{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), /"dtype" twice/],
    ["a hole before the data", file(`{"a":${f32("[1]", 4, 8)}}`, 8), /tensor "a".* hole/],
    ["a hole between tensors", file(`{"a":${f32("[1]", 0, 4)},"b":${f32("[1]", 8, 12)}}`, 12), /tensor "b".* hole/],
    ["an overlap", file(`{"a":${f32("[2]", 0, 8)},"b":${f32("[2]", 4, 12)}}`, 12), /tensor "b".* overlap/],
    ["two tensors of one range", file(`{"a":${f32("[1]", 0, 4)},"b":${f32("[1]", 0, 4)}}`, 4), /tensor "b".* overlap/],
    [
      "data after the last tensor",
      file(`{"a":${f32("[1]", 0, 4)}}`, 5),
      /need 4 bytes after the header, the file has 5/,
    ],
    ["an end before its begin", file(`{"a":${f32("[1]", 8, 4)}}`, 8), /range 8 to 4 has -4/],
    ["a negative dimension", file(`{"a":${f32("[-1]", 0, 4)}}`, 4), /tensor "a": its header entry/],
    ["a fractional dimension", file(`{"a":${f32("[1.5]", 0, 4)}}`, 4), /tensor "a": its header entry/],
    [
      "dimensions that overflow",
      file(`{"a":${f32("[4294967296,4294967296]", 0, 4)}}`, 4),
      /tensor "a": F32 .* needs 73786976294838\d+ bytes/,
    ],
    ["a field too many", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}`, 4), /nothing else/],
    ["an entry that is null", file(`{"a":null}`), /tensor "a": its header entry/],
    [
      "an unknown dtype",
      file(`{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}`, 1),
      /"a": dtype F8_E4M3 is unknown/,
    ],
    [
      "a dtype that every object has",
      file(`{"a":{"dtype":"constructor","shape":[1],"data_offsets":[0,1]}}`, 1),
      /dtype constructor/,
    ],
    ["metadata that is no text", file(`{"__metadata__":{"epoch":3}}`), /__metadata__ must map strings to strings/],
    ["a list", file("[]"), /not a JSON object/],
    ["a space before the header", file(" {}"), /not a JSON object/],
    ["two objects", file("{}{}"), /not valid JSON/],
    [
      "bytes that are not UTF-8",
      concat(file("{}x").subarray(0, 9), Uint8Array.of(0xff, 0x7d)),
      /not a JSON object in UTF-8/,
    ],
    [
      "a length beyond the file",
      concat(Uint8Array.of(200, 0, 0, 0, 0, 0, 0, 0), Buffer.from("{}")),
      /header length 200 exceeds/,
    ],
    ["seven bytes", new Uint8Array(7), /needs bytes 0 to 8/],
  ])("%s", async ([, bytes, says]) => {
    const error = await failure(bytes, "x.safetensors");
    expect(error.kind).toBe("file");
    expect(error.message).toMatch(/^x\.safetensors: /);
    expect(error.message).toMatch(says);
  });
});

test("what the format allows is read", async () => {
  const header = `{"b":${f32("[0,3]", 0, 0)},"a":${f32("[]", 0, 4)},"__metadata__":{"note":"é"},"c":${f32("[2]", 4, 12)}}   `;
  const { entries, metadata } = await open(file(header, 12));
  expect([...entries].map(([key, { shape }]) => [key, shape])).toEqual([
    ["b", [0, 3]],
    ["a", []],
    ["c", [2]],
  ]);
  expect(metadata).toEqual({ note: "é" });
  expect((await open(file("{}"), "empty.safetensors")).entries.size).toBe(0);
});

test("repeated keys are told from repeated values", () => {
  const repeatedKey = (json: string) => keysOfJson(json).repeated;
  expect(repeatedKey(`{"a":"a","b":["a","a",{"a":1}],"c":{"a":1,"b":"{\\"a\\":1}"}}`)).toBeUndefined();
  expect(repeatedKey(`{"\\\\":1,"b\\"":2, "\\\\" : 3}`)).toBe("\\");
  expect(repeatedKey(`{"a":{"x":1},"b":{"x":1,"y":{"x":2},"x":3}}`)).toBe("x");
  expect(repeatedKey(`{"${"\\n".repeat(1_000_000)}":1}`)).toBeUndefined();
});

test.for([2, 3, 4, 5])("a header whose length begins like a pickle of protocol %i is no pickle", async (protocol) => {
  // 0x80 and the protocol are the first two bytes of both.
  const length = 0x80 + 256 * protocol;
  const header = `{"a":${f32("[1]", 0, 4)}}`.padEnd(length, " ");
  const { format, entries } = await open(file(header, 4), "weights");
  expect([format, [...entries.keys()]]).toEqual(["safetensors", ["a"]]);
});
