import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { checkpointBlob, type TensorEntry } from "../../src/checkpoint/index.ts";
import {
  type DType,
  dtypes,
  sizeOf,
  Tensor,
  type TensorSource,
  tensorBytes,
  tensorFromBytes,
} from "../../src/tensor/index.ts";
import { fixture, open, save } from "./support.ts";

const formats = ["pth", "safetensors"] as const;

/** Any bits, so that NaNs with payloads, infinities and denormals are among them. */
const anyTensor: fc.Arbitrary<Tensor> = fc
  .tuple(
    fc.constantFrom(...(Object.keys(dtypes) as DType[])),
    fc.array(fc.nat({ max: 4 }), { maxLength: 5 }),
    fc.infiniteStream(fc.nat({ max: 255 })),
  )
  .map(([dtype, shape, bytes]) => {
    const count = sizeOf(shape) * dtypes[dtype].bytes;
    const raw = Uint8Array.from(bytes.take(count), (byte) => (dtype === "bool" ? byte & 1 : byte));
    return tensorFromBytes(dtype, shape, raw);
  });

const anyKey = fc.oneof(
  fc.string({ unit: "grapheme", maxLength: 12 }),
  fc.string({ unit: "binary", maxLength: 6 }).filter((key) => !/\p{Surrogate}/u.test(key)),
  fc.constantFrom(
    "",
    "__proto__",
    "constructor",
    "0",
    "module.a",
    "a.b.weight",
    "\u{feff}bom",
    '"\\\n',
    "\0",
    "漢字 🐟",
  ),
);

const anyStateDict: fc.Arbitrary<[string, Tensor][]> = fc.uniqueArray(fc.tuple(anyKey, anyTensor), {
  selector: ([key]) => key,
  maxLength: 8,
});

const described = (entries: Iterable<readonly [string, TensorSource]>) =>
  [...entries].map(([key, source]) => {
    const tensor = source.readSync();
    const { dtype, shape } = source;
    return { key, dtype, shape, bytes: Buffer.from(tensorBytes(tensor)).toString("hex") };
  });

describe("what is written is read again, to the bit", () => {
  test.for(formats)("%s", async (format) => {
    await fc.assert(
      fc.asyncProperty(anyStateDict, async (entries) => {
        const bytes = await save(entries, { format });
        const again = await open(bytes, "x", { stripModulePrefix: false, verify: "open" });
        expect(described(again.entries)).toEqual(described(entries));
      }),
      { numRuns: 150, seed: 7 },
    );
  });

  test("metadata, in safetensors", async () => {
    const strings = fc.string({ unit: "grapheme", maxLength: 20 });
    await fc.assert(
      fc.asyncProperty(fc.dictionary(strings, strings), async (metadata) => {
        const again = await open(await save([["w", Tensor.scalar(1)]], { format: "safetensors", metadata }));
        expect(Object.entries(again.metadata).sort()).toEqual(Object.entries(metadata).sort());
      }),
      { numRuns: 50, seed: 7 },
    );
  });

  test("rewriting a written file changes nothing", async () => {
    for (const format of formats) {
      const original = await open(fixture("dtypes_zip.pth"));
      const once = await save(original.entries, { format });
      const twice = await save((await open(once)).entries, { format });
      expect(Buffer.compare(once, twice)).toBe(0);
    }
  });
});

test("strided views are written as dense tensors", async () => {
  const views = await open(fixture("views_legacy.pth"));
  const again = await open(await save(views.entries, { format: "pth" }));
  expect(described(again.entries)).toEqual(described(views.entries));
});

describe("the layout of the files", () => {
  const entries: TensorEntry[] = [
    ["flag", Tensor.of("bool", [3], [1, 0, 1])],
    ["w", Tensor.float32([2, 2], [1, 2, 3, 4])],
    ["n", Tensor.of("int64", [], [7])],
  ];

  test("in .pth every storage starts on a multiple of 64 bytes, as torch.save has it", async () => {
    const bytes = await save(entries, { format: "pth" });
    for (const name of ["data.pkl", "data/0", "data/1", "data/2", "version"]) {
      const header = Buffer.from(bytes).indexOf(`archive/${name}`) - 30;
      const view = new DataView(bytes.buffer, header);
      const start = header + 30 + view.getUint16(26, true) + view.getUint16(28, true);
      expect(start % 64, name).toBe(0);
    }
  });

  test("in .pth with more names than one buffer of its writer holds, which ends in the middle of one", async () => {
    const [[, tensor]] = entries;
    const names = Array.from({ length: 40 }, (_, i) => `${i}.${"long".repeat(1500)}`);
    const again = await open(await save(new Map(names.map((name) => [name, tensor])), { format: "pth" }));
    expect([...again.entries.keys()]).toEqual(names);
  });

  test("in .pth under a key of a dict, as training scripts write averaged weights", async () => {
    const wrapped = await open(await save(entries, { format: "pth", wrapper: "model_ema" }));
    expect(wrapped.wrapper).toBe("model_ema");
    expect(described(wrapped.entries)).toEqual(described(entries));
    await expect(save(entries, { format: "safetensors", wrapper: "model_ema" })).rejects.toThrow(
      'save: the wrapper "model_ema" needs a .pth',
    );
  });

  test("in safetensors every tensor is aligned for its type; the header keeps the given order", async () => {
    const bytes = await save(entries, { format: "safetensors", metadata: { format: "pt" } });
    const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    expect((8 + length) % 8).toBe(0);
    expect(new TextDecoder().decode(bytes.subarray(8, 8 + length)).trimEnd()).toBe(
      '{"__metadata__":{"format":"pt"},"flag":{"dtype":"BOOL","shape":[3],"data_offsets":[24,27]},' +
        '"w":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]},"n":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}',
    );
  });

  test("as a Blob, for a page", async () => {
    const blob = await checkpointBlob(entries, { format: "pth" });
    expect(new Uint8Array(await blob.arrayBuffer())).toEqual(await save(entries, { format: "pth" }));
  });
});

describe("what is refused before anything is written", () => {
  const w = Tensor.scalar(1);
  test("keys and metadata that a file cannot hold", async () => {
    await expect(
      save(
        [
          ["a", w],
          ["a", w],
        ],
        { format: "pth" },
      ),
    ).rejects.toThrowErrorMatchingInlineSnapshot(`[RepmlpError: save: key "a" is given twice.]`);
    await expect(save([["\ud800", w]], { format: "pth" })).rejects.toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: save: key "\\ud800" is not valid Unicode. Rename it.]`,
    );
    await expect(save([["__metadata__", w]], { format: "safetensors" })).rejects.toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: save: safetensors keeps the key "__metadata__" for itself. Rename the tensor.]`,
    );
  });

  test("a tensor that is not what it was announced as", async () => {
    const liar: TensorSource = { dtype: "float32", shape: [2], read: async () => w, readSync: () => w };
    await expect(save([["a", liar]], { format: "pth" })).rejects.toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: internal: tensor "a" was announced as float32 [2], reading it gave float32 [].]`,
    );
  });

  test("an aborted task", async () => {
    const stop = new AbortController();
    const done: string[] = [];
    const onTensor = (key: string) => {
      done.push(key);
      stop.abort();
    };
    const task = save(
      [
        ["a", w],
        ["b", w],
      ],
      { format: "pth", signal: stop.signal, onTensor },
    );
    await expect(task).rejects.toMatchObject({ code: "checkpoint/aborted" });
    expect(done).toEqual(["a"]);
  });
});
