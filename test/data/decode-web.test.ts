import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { type Browser, chromium, type Page } from "playwright-core";
import sharp from "sharp";
import { build, type Rolldown } from "vite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readPicture } from "../../src/data/node/index.ts";
import type { decodePictureWeb } from "../../src/data/preprocessing/decode-web.ts";
import { stripMetadata } from "../../src/data/preprocessing/strip-metadata.ts";

const fixtures = fileURLToPath(new URL("../fixtures/transforms/", import.meta.url));
const read = (name: string): Uint8Array<ArrayBuffer> => Uint8Array.from(readFileSync(fixtures + name));

describe("stripMetadata", () => {
  test.for([
    { name: "a JPEG with an orientation", file: "pictures/exif_rotated6_400x280.jpg", before: { orientation: 6 } },
    { name: "a PNG with a colour profile", file: "modes/icc.png", before: { hasProfile: true } },
    { name: "a PNG with a gamma", file: "modes/rgb_gamma.png", before: { hasProfile: false } },
    { name: "a JPEG without either", file: "modes/q90.jpg", before: { hasProfile: false } },
  ])("keeps the pixels of $name", async ({ file, before }) => {
    const stripped = stripMetadata(read(file));
    expect(await sharp(read(file)).metadata()).toMatchObject(before);
    const after = await sharp(stripped).metadata();
    expect({ orientation: after.orientation, hasProfile: after.hasProfile }).toEqual({
      orientation: undefined,
      hasProfile: false,
    });
    const [raw, expected] = await Promise.all(
      [stripped, read(file)].map((bytes) => sharp(bytes, { ignoreIcc: true }).raw().toBuffer()),
    );
    expect(raw.equals(expected)).toBe(true);
  });

  test("gives any other bytes back, however short or broken", () => {
    const starts = fc.constantFrom([0xff, 0xd8, 0xff, 0xe1], [0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10], []);
    fc.assert(
      fc.property(starts, fc.uint8Array({ maxLength: 60 }), (start, rest) => {
        const bytes = Uint8Array.from([...start, ...rest]);
        const out = stripMetadata(bytes);
        expect(out.length).toBeLessThanOrEqual(bytes.length);
        if (start.length === 0) expect([...out]).toEqual([...bytes]);
      }),
    );
    const cut = read("modes/q90.jpg").slice(0, 30);
    expect([...stripMetadata(cut)]).toEqual([...cut]);
  });
});

const executable = [process.env.CHROME_PATH, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
  .filter((path) => path !== undefined)
  .find(existsSync);

declare global {
  var decoder: { decodePictureWeb: typeof decodePictureWeb };
}

describe.runIf(executable)("in a browser", () => {
  let browser: Browser;
  let page: Page;
  beforeAll(async () => {
    const entry = fileURLToPath(new URL("../../src/data/preprocessing/decode-web.ts", import.meta.url));
    const bundle = (await build({
      configFile: false,
      logLevel: "error",
      build: { write: false, lib: { entry, name: "decoder", formats: ["iife"] } },
    })) as Rolldown.RolldownOutput[];
    browser = await chromium.launch({ executablePath: executable, args: ["--no-sandbox"] });
    page = await browser.newPage();
    await page.addScriptTag({ content: bundle[0].output[0].code });
  });
  afterAll(() => browser.close());

  const decoded = async (name: string): Promise<{ width: number; height: number; data: Buffer }> => {
    const result = await page.evaluate(
      async (base64) => {
        const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
        const { width, height, data } = await decoder.decodePictureWeb(new Blob([bytes]), "upload.jpg");
        return { width, height, data: btoa(Array.from(data, (v) => String.fromCharCode(v)).join("")) };
      },
      readFileSync(fixtures + name, "base64"),
    );
    return { ...result, data: Buffer.from(result.data, "base64") };
  };

  test.for([
    "pictures/exif_rotated6_400x280.jpg",
    "pictures/gray_320x240.jpg",
    "pictures/palette_270x260.png",
    "pictures/photo_301x299_422.jpg",
    "pictures/rgba_280x300.png",
    "modes/icc.png",
    "modes/la16.png",
    "modes/p_trns.png",
    "modes/rgb_gamma.png",
    "modes/rgba.webp",
    "modes/rgba.bmp",
  ])("decodes as in Node: %s", async (name) => {
    const expected = await readPicture(fixtures + name);
    const { width, height, data } = await decoded(name);
    expect([width, height]).toEqual([expected.width, expected.height]);
    expect(data.equals(Uint8Array.from(expected.data))).toBe(true);
  });

  test("CMYK is rounded differently, by 1 at most", async () => {
    const expected = await readPicture(`${fixtures}modes/cmyk.jpg`);
    const { data } = await decoded("modes/cmyk.jpg");
    expect(Math.max(...data.map((v, i) => Math.abs(v - expected.data[i])))).toBeLessThanOrEqual(1);
  });

  test("names a file that is no picture", async () => {
    await expect(decoded("references.json")).rejects.toThrow("upload.jpg: the browser cannot decode this picture");
  });
});
