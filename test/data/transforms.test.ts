import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { checkTransforms } from "../../scripts/conformance/transforms.ts";
import { openCheckpoint } from "../../src/checkpoint/index.ts";
import { fileSource } from "../../src/checkpoint/node/index.ts";
import {
  type Interpolation,
  imagenetNormalization,
  imagenetPreprocessing,
  normalized,
  type Picture,
  type Preprocessing,
  preprocess,
  resize,
  resizeAndCrop,
  resizedSize,
  resizeRegion,
} from "../../src/data/index.ts";
import { decodePicture, readPicture } from "../../src/data/node/index.ts";

// Made by Pillow and torchvision: see make_references.py there.
const folder = fileURLToPath(new URL("../fixtures/transforms/", import.meta.url));

interface References {
  readonly goldens: Readonly<Record<string, Readonly<Record<string, { shape: number[]; sha256: string }>>>>;
  readonly modes: Readonly<Record<string, string | null>>;
  readonly resized: readonly {
    source: [number, number];
    target: [number, number];
    interpolation: Interpolation;
    sha256: string;
  }[];
  readonly cropped: readonly {
    source: [number, number];
    resize: number | [number, number];
    crop: [number, number];
    interpolation: Interpolation;
    sha256: string;
    normalized: string;
  }[];
}
const references: References = JSON.parse(readFileSync(`${folder}references.json`, "utf8"));

const sha256 = (values: Uint8Array | Uint8ClampedArray | Float32Array): string =>
  createHash("sha256")
    .update(new Uint8Array(values.buffer as ArrayBuffer, values.byteOffset, values.byteLength))
    .digest("hex");

/** Every `step`-th row and column. */
const thin = ({ width, height, data }: Picture, step: number): Uint8Array => {
  const out: number[] = [];
  for (let y = 0; y < height; y += step)
    for (let x = 0; x < width; x += step) out.push(...data.subarray(3 * (y * width + x), 3 * (y * width + x) + 3));
  return Uint8Array.from(out);
};

const formula = (width: number, height: number): Picture => ({
  width,
  height,
  data: Uint8Array.from({ length: 3 * width * height }, (_, i) => {
    const [y, x, c] = [Math.floor(i / 3 / width), Math.floor(i / 3) % width, i % 3];
    return 31 * x + 57 * y + 85 * c + 7 * ((x * y) % 23);
  }),
});

/** A TIFF file with another value of the tag Orientation (274, one SHORT). */
function turned(bytes: Uint8Array, orientation: number): Uint8Array {
  const hex = Buffer.from(bytes).toString("hex");
  const little = hex.replace(/(1201030001(?:0{14}|0{6}))0100/, `$1${orientation.toString(16).padStart(2, "0")}00`);
  const big = hex.replace(/(0112000300000001)0001/, `$1${orientation.toString(16).padStart(4, "0")}`);
  const found = orientation === 1 || little !== hex ? little : big;
  if (orientation !== 1 && found === hex) throw new Error("the file has no orientation");
  return Uint8Array.from(Buffer.from(found, "hex"));
}

describe("equal to Pillow and torchvision", () => {
  test.for(Object.entries(references.goldens))("decoded and preprocessed: %s", async ([name, expected]) => {
    const picture = await readPicture(`${folder}pictures/${name}`);
    const results = Object.keys(expected).map((key) => {
      const size = Number(/\d+/.exec(key)?.[0]);
      const config = { ...imagenetPreprocessing(size), ...(key.startsWith("r") ? { resize: size } : {}) };
      if (key === "decoded_rgb") return [key, sha256(picture.data)];
      if (key === "decoded_rgb_every8") return [key, sha256(thin(picture, 8))];
      if (key.endsWith("uint8"))
        return [key, sha256(thin(resizeAndCrop(picture, config), size / expected[key].shape[0]))];
      const sample = preprocess(picture, config).filter((_, i) => i % 32 === 0 && Math.floor(i / 224) % 32 === 0);
      return [key, sha256(sample)];
    });
    expect(Object.fromEntries(results)).toEqual(
      Object.fromEntries(Object.entries(expected).map(([key, { sha256 }]) => [key, sha256])),
    );
  });

  test.for(Object.entries(references.modes))("file kinds and colour modes: %s", async ([name, expected]) => {
    const picture = readPicture(`${folder}modes/${name}`);
    if (expected !== null) expect(sha256((await picture).data)).toBe(expected);
    else
      await expect(picture).rejects.toMatchObject({ code: "picture/decode", message: expect.stringContaining(name) });
  });

  const made = <T>(name: string): [string, T][] => Object.entries(JSON.parse(readFileSync(`${folder}${name}`, "utf8")));
  const bytesOf = (base64: string): Uint8Array => Uint8Array.from(Buffer.from(base64, "base64"));

  test.for(made<{ file: string; sha256: string | null }>("bitmaps.json"))(
    "bitmaps of Windows and OS/2: %s",
    async ([name, { file, sha256: expected }]) => {
      const picture = decodePicture(bytesOf(file), name);
      // Pillow gives pixels past the palette some colour; they are refused here.
      if (expected !== null && name !== "p8_past_palette") expect(sha256((await picture).data)).toBe(expected);
      else await expect(picture).rejects.toMatchObject({ code: expect.stringMatching(/^bmp/), kind: "file" });
    },
  );

  test.for(made<{ file: string; sha256: string[] }>("tiff.json"))(
    "TIFF files in every orientation: %s",
    async ([name, { file, sha256: expected }]) => {
      for (const [i, digest] of expected.entries()) {
        const picture = decodePicture(turned(bytesOf(file), i + 1), name);
        if (name === "rgb planar tiles")
          await expect(picture, `${i + 1}`).rejects.toMatchObject({ code: "picture/decode" });
        else expect(sha256((await picture).data), `${i + 1}`).toBe(digest);
      }
    },
  );

  test.for(references.resized)("resized $source to $target, $interpolation", (reference) => {
    const { source, target, interpolation, sha256: expected } = reference;
    expect(sha256(resize(formula(...source), ...target, interpolation).data)).toBe(expected);
  });

  test.for(references.cropped)("$source resized to $resize, cropped to $crop, $interpolation", (reference) => {
    const config: Preprocessing = {
      inputSize: [3, ...reference.crop],
      resize: reference.resize,
      interpolation: reference.interpolation,
      ...imagenetNormalization,
    };
    const bytes = resizeAndCrop(formula(...reference.source), config);
    expect(sha256(bytes.data)).toBe(reference.sha256);
    expect(sha256(normalized(bytes, config))).toBe(reference.normalized);
  });
});

describe("checkTransforms", () => {
  const readTensors = async (path: string) => (await openCheckpoint(fileSource(path))).entries;

  test("passes on a folder of references", async () => {
    const checks = [];
    for await (const check of checkTransforms(`${folder}layout`, readTensors)) checks.push(check);
    expect(checks).toHaveLength(13);
    expect(checks.filter(({ passed }) => !passed)).toEqual([]);
  });

  test("fails where a reference differs", async () => {
    const spoilt = async (path: string) => {
      const entries = new Map(await readTensors(path));
      const tensor = await entries.get("t224.uint8")!.read();
      tensor.data[1234] = Number(tensor.data[1234]) ^ 2;
      return entries.set("t224.uint8", tensor);
    };
    const failed = [];
    for await (const check of checkTransforms(`${folder}layout`, spoilt)) if (!check.passed) failed.push(check);
    expect(failed).toEqual([
      {
        id: "synth_small_100x90_444.jpg/t224.uint8",
        passed: false,
        detail: "1 of 150528 values differ, largest difference 2",
      },
    ]);
  });

  test("names a folder without references", async () => {
    await expect(checkTransforms(folder, readTensors).next()).rejects.toMatchObject({ code: "conformance/record" });
  });
});

const size = fc.integer({ min: 1, max: 40 });
const interpolation = fc.constantFrom<Interpolation>("bilinear", "bicubic");

describe("properties of resizing", () => {
  test("one colour stays one colour", () => {
    fc.assert(
      fc.property(size, size, size, size, fc.nat(255), interpolation, (w, h, toW, toH, value, kind) => {
        const { data } = resize({ width: w, height: h, data: new Uint8Array(w * h * 3).fill(value) }, toW, toH, kind);
        expect(data.every((v) => v === value)).toBe(true);
      }),
    );
  });

  test("the same size leaves the picture as it is", () => {
    fc.assert(
      fc.property(size, size, interpolation, (w, h, kind) => {
        expect([...resize(formula(w, h), w, h, kind).data]).toEqual([...formula(w, h).data]);
      }),
    );
  });

  test("a region is the same part of the whole, and grey is every channel of grey", () => {
    fc.assert(
      fc.property(size, size, size, size, fc.nat(), fc.nat(), interpolation, (w, h, toW, toH, a, b, kind) => {
        const [left, top] = [a % toW, b % toH];
        const region = { left, top, width: toW - left, height: toH - top };
        const whole = resize(formula(w, h), toW, toH, kind);
        const part = resizeRegion(formula(w, h), { width: toW, height: toH }, region, kind);
        for (let y = 0; y < region.height; y++)
          for (let x = 0; x < region.width; x++)
            expect(part.data[3 * (y * region.width + x) + 1]).toBe(whole.data[3 * ((y + top) * toW + x + left) + 1]);
        const green = formula(w, h).data.filter((_, i) => i % 3 === 1);
        const grey = resizeRegion({ width: w, height: h, data: green }, { width: toW, height: toH }, region, kind);
        expect([...grey.data]).toEqual([...part.data.filter((_, i) => i % 3 === 1)]);
      }),
      { numRuns: 50 },
    );
  });
});

describe("sizes and crops of timm", () => {
  const base = { inputSize: [3, 224, 224], ...imagenetNormalization } as const;
  test.for<{ name: string; config: Preprocessing; from: [number, number]; size: [number, number] }>([
    { name: "cropPct 0.875 by default", config: base, from: [500, 375], size: [341, 256] },
    { name: "cropPct 0.9 rounds down", config: { ...base, cropPct: 0.9 }, from: [375, 500], size: [248, 330] },
    { name: "squash", config: { ...base, cropMode: "squash", cropPct: 1 }, from: [500, 375], size: [224, 224] },
    { name: "squash a resize", config: { ...base, cropMode: "squash", resize: 250 }, from: [9, 7], size: [250, 250] },
    { name: "both sides given", config: { ...base, resize: [240, 300] }, from: [500, 375], size: [300, 240] },
    {
      name: "an input that is not square keeps the aspect ratio",
      config: { ...base, inputSize: [3, 96, 192], cropPct: 1 },
      from: [500, 375],
      size: [192, 144],
    },
  ])("$name", ({ config, from: [width, height], size: [w, h] }) => {
    expect(resizedSize({ width, height }, config)).toEqual({ width: w, height: h });
  });

  test("one input channel makes grey pictures as Pillow does, three repeat grey", () => {
    const config = { inputSize: [1, 2, 1], resize: [2, 1], mean: [0], std: [1 / 255] } as const;
    // 0.299 · 200 + 0.587 · 100 + 0.114 · 50 = 124.2
    const grey = preprocess({ width: 1, height: 2, data: Uint8Array.of(200, 100, 50, 7, 7, 7) }, config);
    expect([...grey].map(Math.round)).toEqual([124, 7]);
    const back = resizeAndCrop(
      { width: 1, height: 2, data: Uint8Array.of(9, 5) },
      { ...base, inputSize: [3, 2, 1], resize: [2, 1] },
    );
    expect([...back.data]).toEqual([9, 9, 9, 5, 5, 5]);
  });
});

describe("hostile pictures", () => {
  const ascii = (text: string, ...rest: number[]): Uint8Array =>
    Uint8Array.from([...new TextEncoder().encode(text), ...rest]);
  const bmp = (edit: (view: DataView) => void): Uint8Array => {
    const bytes = Uint8Array.from(readFileSync(`${folder}modes/rgb.bmp`));
    edit(new DataView(bytes.buffer));
    return bytes;
  };
  test.for([
    { name: "empty", bytes: new Uint8Array(0), code: "picture/decode" },
    { name: "text", bytes: ascii("hello"), code: "picture/decode" },
    {
      name: "vector graphics",
      bytes: ascii('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
      code: "picture/decode",
    },
    { name: "PGM without size", bytes: ascii("P5 # no size"), code: "netpbm/header" },
    { name: "PGM cut short", bytes: ascii("P5 3 2 255\n", 1, 2, 3, 4, 5), code: "netpbm/truncated" },
    { name: "PGM of no pixels", bytes: ascii("P5 0 2 255\n", 1), code: "netpbm/truncated" },
    { name: "PGM of two bytes per sample", bytes: ascii("P5 1 1 65535\n", 1, 2), code: "netpbm/depth" },
    { name: "huge PPM", bytes: ascii("P6 99999999 99999999 255\n"), code: "netpbm/truncated" },
    { name: "huge bitmap", bytes: bmp((v) => v.setInt32(18, 0x7fffffff, true)), code: "bmp/truncated" },
    { name: "negative bitmap", bytes: bmp((v) => v.setInt32(18, -3, true)), code: "bmp/header" },
    { name: "bitmap with a JPEG inside", bytes: bmp((v) => v.setUint32(30, 4, true)), code: "bmp/format" },
    { name: "bitmap of 3 bits", bytes: bmp((v) => v.setUint16(28, 3, true)), code: "bmp/format" },
    { name: "bitmap with another header", bytes: bmp((v) => v.setUint32(14, 41, true)), code: "bmp/format" },
    { name: "bitmap that starts past its end", bytes: bmp((v) => v.setUint32(10, 1 << 30, true)), code: "bmp/header" },
    {
      name: "bitmap with a colour past the palette",
      bytes: bmp((v) => {
        v.setUint16(28, 8, true);
        v.setUint32(46, 1, true);
      }),
      code: "bmp/palette",
    },
  ])("$name", async ({ bytes, code }) => {
    await expect(decodePicture(bytes, "x.jpg")).rejects.toMatchObject({
      code,
      message: expect.stringContaining("x.jpg"),
    });
  });

  test.for([
    ["a GIF", ascii("GIF89a", 1, 0, 1, 0, 0, 0, 0), "it is a GIF; JPEG, PNG"],
    [
      "vector graphics",
      ascii('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
      "it is an SVG drawing",
    ],
    ["a web page", ascii("<!DOCTYPE html><p>not found"), "it is a web page"],
    ["a pointer", ascii("version https://git-lfs.github.com/spec/v1"), "it is a pointer of Git LFS"],
    ["bytes", Uint8Array.of(1, 2, 254), "it begins with the bytes 01 02 fe"],
    ["half a JPEG", readFileSync(`${folder}modes/half.jpg`), "the JPEG file ends in the middle"],
    ["half a PNG", readFileSync(`${folder}modes/half.png`), "the PNG file ends in the middle"],
    ["half a WebP", readFileSync(`${folder}modes/rgb.webp`).subarray(0, 99), "the WebP file ends in the middle"],
    ["half a TIFF", readFileSync(`${folder}modes/rgb.tif`).subarray(0, 99), "its TIFF data is damaged"],
  ] as const)("says what it is: %s", async ([, bytes, message]) => {
    await expect(decodePicture(Uint8Array.from(bytes), "x.jpg")).rejects.toThrow(
      `x.jpg: cannot be decoded as a picture (${message}`,
    );
  });

  test("says nothing of other pictures that are decoded at the same time", async () => {
    const names = ["half.jpg", "half.png", "rgb.webp", "rgb.tif", "cmyk.jpg", "l16.png"];
    const broken = names.map((name) => {
      const bytes = Uint8Array.from(readFileSync(`${folder}modes/${name}`));
      return bytes.subarray(0, Math.floor(bytes.length / 2));
    });
    const messageOf = (bytes: Uint8Array): Promise<string> =>
      decodePicture(bytes, "x").then(
        () => "decoded",
        (error: Error) => error.message,
      );
    const alone = [];
    for (const bytes of broken) alone.push(await messageOf(bytes));
    expect(new Set(alone).size).toBeGreaterThan(3);
    const rounds = await Promise.all(Array.from({ length: 20 }, () => Promise.all(broken.map(messageOf))));
    for (const together of rounds) expect(together).toEqual(alone);
  });

  test("comments in a PGM header are skipped", async () => {
    const picture = await decodePicture(ascii("P5\n# made by hand\n2 # wide\n1\n255\n", 7, 9), "x.pgm");
    expect(picture).toMatchObject({ width: 2, height: 1 });
    expect([...picture.data]).toEqual([7, 7, 7, 9, 9, 9]);
  });

  test("a picture whose size and bytes do not fit", () => {
    expect(() => resize({ width: 2, height: 2, data: new Uint8Array(8) }, 1, 1)).toThrowErrorMatchingInlineSnapshot(
      `[RepmlpError: picture: 2 x 2 pixels need 4 or 12 bytes, got 8]`,
    );
    expect(() =>
      preprocess({ width: 500, height: 1, data: new Uint8Array(500) }, { ...imagenetPreprocessing(), resize: [0, 4] }),
    ).toThrow("leaves no pixel");
  });
});
