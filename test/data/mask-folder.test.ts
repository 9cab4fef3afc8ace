import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import sharp from "sharp";
import { beforeAll, describe, expect, test } from "vitest";
import { decodeMask } from "../../src/data/node/mask-png.ts";
import { type MaskFolderOptions, maskFolder, readPicture } from "../../src/node.ts";
import { tempFolder } from "../training/support.ts";

const part = (type: string, body: Uint8Array): Buffer => {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  // The check sums at the end of parts are not read.
  return Buffer.concat([length, Buffer.from(type, "latin1"), body, Buffer.alloc(4)]);
};

/** A PNG file of such rows (without filters). */
function png(width: number, height: number, depth: number, kind: number, rows: Uint8Array, interlaced = 0): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([depth, kind, 0, 0, interlaced], 8);
  const stride = rows.length / height;
  const filtered = Buffer.concat(
    Array.from({ length: height }, (_, y) => Buffer.from([0, ...rows.subarray(y * stride, (y + 1) * stride)])),
  );
  return Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]),
    ...[part("IHDR", header), part("IDAT", deflateSync(filtered)), part("IEND", new Uint8Array())],
  ]);
}

const [width, height] = [23, 17];
/** Blocks of classes 0 to 4, and a line of 255. */
const labelAt = (x: number, y: number): number => (y === 5 ? 255 : (Math.floor(x / 4) + 2 * Math.floor(y / 3)) % 5);
const labels = Uint8Array.from({ length: width * height }, (_, i) => labelAt(i % width, Math.floor(i / width)));
/** A colour for each label, by which a pixel of the picture tells where it comes from. */
const shadeOf = (label: number): number => (label === 255 ? 250 : 40 * label + 10);

const root = tempFolder();
const [pictures, masks] = ["train", "trainannot"].map((name) => join(root, name));
const options: MaskFolderOptions = {
  imageSize: [height, width],
  normalization: { mean: [0, 0, 0], std: [1 / 255, 1 / 255, 1 / 255] },
  numClasses: 5,
};
const raw = { width, height, channels: 1 } as const;

beforeAll(async () => {
  for (const folder of [pictures, masks]) mkdirSync(folder, { recursive: true });
  for (const name of ["a", "b"]) {
    await sharp(labels.map(shadeOf), { raw })
      .png()
      .toFile(join(pictures, `${name}.png`));
    await sharp(labels, { raw })
      .toColourspace("b-w")
      .png({ adaptiveFiltering: name === "b" })
      .toFile(join(masks, `${name}.png`));
  }
});

describe("class numbers of PNG files", () => {
  test.for([1, 2, 4, 8])("of %i bits, in a palette and grey", (depth) => {
    const [w, h, stride] = [11, 3, Math.ceil((11 * depth) / 8)];
    const values = Uint8Array.from({ length: w * h }, (_, i) => (i * 7 + 3) % 2 ** depth);
    const rows = new Uint8Array(stride * h);
    for (let y = 0; y < h; y++)
      for (let x = 0; x < w; x++) {
        const bit = x * depth;
        rows[y * stride + (bit >> 3)] |= values[y * w + x] << (8 - depth - (bit & 7));
      }
    for (const kind of [0, 3])
      expect(decodeMask(png(w, h, depth, kind, rows), "m.png")).toEqual({ width: w, height: h, labels: values });
  });

  test("written by another library with filters", async () => {
    const noisy = Uint8Array.from({ length: 64 * 48 }, (_, i) => (i * i * 31 + (i >> 4)) % 251);
    const smooth = Uint8Array.from({ length: 64 * 48 }, (_, i) => (i % 64) + Math.floor(i / 64));
    for (const values of [noisy, smooth])
      for (const adaptiveFiltering of [true, false]) {
        const file = await sharp(values, { raw: { width: 64, height: 48, channels: 1 } })
          .toColourspace("b-w")
          .png({ adaptiveFiltering, palette: false })
          .toBuffer();
        expect(decodeMask(file, "m.png").labels).toEqual(values);
      }
  });

  const rows = new Uint8Array(4);
  test.for([
    ["colours", png(2, 1, 8, 2, new Uint8Array(6)), /m\.png: a mask must hold a class number per pixel/],
    ["16 bits", png(2, 2, 16, 0, new Uint8Array(8)), /at most 8 bits per pixel, this file 16/],
    ["interlaced", png(2, 2, 8, 0, rows, 1), /interlaced/],
    ["too few rows", png(2, 9, 8, 0, rows.subarray(0, 4)), /m\.png/],
    ["no PNG", Buffer.from("GIF89a"), /must be a PNG file/],
    ["cut", png(2, 2, 8, 0, rows).subarray(0, 50), /m\.png: the PNG file/],
  ] as const)("are refused: %s", ([, bytes, message]) => {
    expect(() => decodeMask(bytes, "m.png")).toThrow(message);
  });
});

/** Says of every pixel of a sample whether picture and mask tell the same label. */
async function agreement(
  own: MaskFolderOptions,
  draws: number,
): Promise<{ readonly equal: number; readonly all: number }> {
  const data = await maskFolder(pictures, masks, own);
  let [equal, all] = [0, 0];
  for (let epoch = 0; epoch < draws; epoch++) {
    const { images, targets } = await data.batch([0, 1], { seed: 1, epoch });
    const size = own.imageSize[0] * own.imageSize[1];
    for (let i = 0; i < 2 * size; i++) {
      const label = targets.data[i] as number;
      const shade = images.data[Math.floor(i / size) * 3 * size + (i % size)] as number;
      if (label === 255 && shade === 0) continue;
      all++;
      if (Math.abs(shade - shadeOf(label)) < 0.5) equal++;
    }
  }
  return { equal, all };
}

describe("pictures with masks", () => {
  test("come together, as large as they are", async () => {
    const data = await maskFolder(pictures, masks, options);
    expect([data.length, data.imageShape]).toEqual([2, [3, height, width]]);
    const { images, targets } = await data.batch([0, 1]);
    expect([images.shape, targets.shape]).toEqual([
      [2, 3, height, width],
      [2, height, width],
    ]);
    expect(Array.from(targets.data as Float32Array)).toEqual([...labels, ...labels]);
    const picture = await readPicture(join(pictures, "a.png"));
    expect(images.data[5]).toBeCloseTo(picture.data[15], 4);
  });

  test("are filled up below and at the right: the mean colour, and a label that counts nowhere", async () => {
    const data = await maskFolder(pictures, masks, { ...options, imageSize: [20, 30], ignoreLabel: 255 });
    const { images, targets } = await data.batch([1]);
    for (let y = 0; y < 20; y++)
      for (let x = 0; x < 30; x++) {
        const isIn = x < width && y < height;
        expect(targets.data[y * 30 + x]).toBe(isIn ? labelAt(x, y) : 255);
        if (!isIn) expect(images.data[600 + y * 30 + x]).toBe(0);
      }
  });

  test("move together: mirrored and cut, every pixel keeps its label", async () => {
    const own = { ...options, imageSize: [12, 27], augment: { scale: [1, 1], flip: 0.5 } } as const;
    const { equal, all } = await agreement(own, 8);
    expect(all).toBe(16 * 12 * width);
    expect(equal).toBe(all);
  });

  test("move together: scaled, the mask tells from where in the picture every pixel is", async () => {
    const ramp = join(root, "ramp");
    for (const folder of ["p", "m"]) mkdirSync(join(ramp, folder), { recursive: true });
    const places = [(i: number) => i % width, (i: number) => Math.floor(i / width)];
    for (const [axis, place] of places.entries())
      for (const [folder, factor] of [
        ["p", 10],
        ["m", 1],
      ] as const) {
        const values = Uint8Array.from({ length: width * height }, (_, i) => factor * place(i));
        await sharp(values, { raw })
          .toColourspace("b-w")
          .png()
          .toFile(join(ramp, `${folder}/${axis}.png`));
      }
    const augment = { scale: [0.5, 3], flip: 0.5 } as const;
    const { normalization } = options;
    const data = await maskFolder(join(ramp, "p"), join(ramp, "m"), { imageSize: [16, 20], normalization, augment });
    const size = 16 * 20;
    let pixels = 0;
    for (let epoch = 0; epoch < 12; epoch++) {
      const { images, targets } = await data.batch([0, 1], { seed: 3, epoch });
      for (let i = 0; i < 2 * size; i++) {
        const label = targets.data[i] as number;
        const place = (images.data[Math.floor(i / size) * 3 * size + (i % size)] as number) / 10;
        if (label === 255) continue;
        expect(Math.abs(place - label)).toBeLessThan(0.75);
        pixels++;
      }
    }
    expect(pixels).toBeGreaterThan(6 * size);
  });

  test("the same draw gives the same crop, another epoch another one", async () => {
    const own = { ...options, imageSize: [8, 8], augment: {} } as const;
    const data = await maskFolder(pictures, masks, own);
    const drawn = async (epoch: number) => Array.from((await data.batch([0], { seed: 2, epoch })).images.data, Number);
    expect(await drawn(1)).toEqual(await drawn(1));
    expect(await drawn(1)).not.toEqual(await drawn(2));
  });
});

describe("what does not fit is refused by name", () => {
  const broken = join(root, "broken");
  const wrong: readonly [string, () => Promise<unknown> | unknown, RegExp][] = [
    ["a picture without a mask", () => rmSync(join(broken, "m/b.png")), /1 of 2 pictures have no mask.*b\.png/],
    [
      "a mask of another size",
      () => writeFileSync(join(broken, "m/b.png"), png(4, 4, 8, 0, new Uint8Array(16))),
      /b\.png: the mask is 4 x 4, its picture .* 23 x 17/,
    ],
    [
      "a label beyond the classes",
      () =>
        writeFileSync(
          join(broken, "m/b.png"),
          png(
            width,
            height,
            8,
            0,
            labels.map((l) => (l === 4 ? 9 : l)),
          ),
        ),
      /b\.png: the mask has label 9, but there are 5 classes/,
    ],
  ];

  test.for(wrong)("%s", async ([, spoil, message]) => {
    rmSync(broken, { recursive: true, force: true });
    for (const folder of ["p", "m"]) mkdirSync(join(broken, folder), { recursive: true });
    for (const name of ["a", "b"]) {
      await sharp(labels, { raw })
        .toColourspace("b-w")
        .png()
        .toFile(join(broken, `p/${name}.png`));
      await sharp(labels, { raw })
        .toColourspace("b-w")
        .png({ palette: false })
        .toFile(join(broken, `m/${name}.png`));
    }
    await spoil();
    const read = async (): Promise<unknown> => {
      const data = await maskFolder(join(broken, "p"), join(broken, "m"), options);
      return data.batch([0, 1]);
    };
    await expect(read()).rejects.toThrow(message);
  });

  test("a picture larger than the network's input, in evaluation", async () => {
    const data = await maskFolder(pictures, masks, { ...options, imageSize: [17, 20] });
    await expect(data.batch([0])).rejects.toThrow(/a picture is 23 x 17, `imageSize` allows 20 x 17/);
  });

  test("folders without pictures", async () => {
    const empty = join(root, "empty");
    mkdirSync(empty, { recursive: true });
    await expect(maskFolder(empty, masks, options)).rejects.toThrow(/there is no picture in this folder/);
    await expect(maskFolder(join(root, "none"), masks, options)).rejects.toThrow(/none: the folder cannot be read/);
  });
});
