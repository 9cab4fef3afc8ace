import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pipeline, RawImage } from "@huggingface/transformers";
import sharp from "sharp";
import { beforeAll, describe, expect, test } from "vitest";
import { decodeMask } from "../../src/data/node/mask-png.ts";
import { createModel, openCheckpointFile, saveCheckpointFile } from "../../src/node.ts";
import { rng } from "../../src/tensor/index.ts";
import { type Outcome, repmlp, tempFolder } from "./harness.ts";

/* Segmentation and faces as commands: trained on toy pictures, then everything that one does with the result. */

const folder = tempFolder();
const at = (name: string): string => join(folder, name);
const run = (...args: string[]): Promise<Outcome> => repmlp(args, { cwd: folder });
const size = 41;

/** A disc (class 1) on ground (0), a frame that counts nowhere (9); red where the disc is. */
async function scene(picture: string, mask: string, seed: number): Promise<void> {
  const random = rng(seed, "scene");
  const [cx, cy, r] = [12 + 16 * random.next(), 12 + 16 * random.next(), 6 + 4 * random.next()];
  const labels = new Uint8Array(size * size);
  const pixels = new Uint8Array(3 * size * size);
  for (let y = 0; y < size; y++)
    for (let x = 0; x < size; x++) {
      const isDisc = (x - cx) ** 2 + (y - cy) ** 2 < r * r;
      labels[y * size + x] = x && y ? Number(isDisc) : 9;
      for (let c = 0; c < 3; c++)
        pixels[3 * (y * size + x) + c] = 90 + 60 * random.next() + (isDisc && c === 0 ? 90 : 0);
    }
  const raw = { width: size, height: size } as const;
  await sharp(pixels, { raw: { ...raw, channels: 3 } })
    .png()
    .toFile(picture);
  await sharp(labels, { raw: { ...raw, channels: 1 } })
    .toColourspace("b-w")
    .png()
    .toFile(mask);
}

async function scenes(root: string): Promise<void> {
  for (const [part, count] of [
    ["train", 8],
    ["val", 3],
  ] as const) {
    for (const name of [part, `${part}annot`]) mkdirSync(join(root, name), { recursive: true });
    for (let i = 0; i < count; i++)
      await scene(join(root, part, `${i}.png`), join(root, `${part}annot`, `${i}.png`), i + (part === "val" ? 100 : 0));
  }
  writeFileSync(join(root, "classes.txt"), "ground\ndisc\n");
}

const backboneOptions = { numBlocks: [1, 1, 1, 1], widthMultiplier: [0.125, 0.0625, 0.0625, 0.0625] };
const segmentation = {
  arch: "PSPNet-RepVGG-A0",
  model: { backbone: "RepVGG-A0", backboneOptions, imageSize: [33, 41], bins: [1, 2], midChannels: 8, auxChannels: 8 },
  ...{ epochs: 2, batchSize: 4, lr: 0.05, optimizer: { name: "sgd", momentum: 0.9 } },
  ...{ schedule: { kind: "polynomial", power: 0.9 }, lrScale: { "ppm.*": 10, "cls.*": 10, "aux.*": 10 } },
  task: { kind: "segmentation", ignoreLabel: 9, augment: { scale: [0.8, 1.2], rotate: 5, blur: 0.5 } },
};

/** People are shades with noise. */
async function people(root: string, from: number, count: number, each: number): Promise<void> {
  for (let p = from; p < from + count; p++) {
    mkdirSync(join(root, `p${p}`), { recursive: true });
    for (let i = 0; i < each; i++) {
      const [own, noise] = [rng(p, "person"), rng(1000 * p + i, `noise/${root.length}`)];
      const shades = Array.from({ length: 16 }, () => 40 + 170 * own.next());
      const values = Uint8Array.from(
        { length: 32 * 32 },
        (_, j) => shades[4 * (j >> 8) + ((j >> 3) & 3)] + 20 * noise.next(),
      );
      await sharp(values, { raw: { width: 32, height: 32, channels: 1 } })
        .png()
        .toFile(join(root, `p${p}`, `${i}.png`));
    }
  }
}

const faces = {
  arch: "RepMLP-FaceRes",
  model: {
    ...{ imageSize: 32, embedding: 8, numBlocks: [2, 1, 1, 1], channels: [8, 8, 8, 16], stemChannels: 4 },
    ...{ partition: 4, groups: 2, reparamConvKernels: [1, 3] },
  },
  ...{ epochs: 2, batchSize: 6, lr: 0.1, optimizer: { name: "sgd", momentum: 0.9 } },
  coefficients: { margin: { epochs: 1 } },
  task: { kind: "faces", head: "amsoftmax", scale: 8, margin: 0.2 },
};

const write = (name: string, value: unknown): void => writeFileSync(at(name), JSON.stringify(value));

beforeAll(async () => {
  await scenes(at("scenes"));
  await people(at("faces/train"), 0, 4, 6);
  await people(at("faces/val"), 0, 4, 2);
  await people(at("strangers/val"), 10, 5, 4);
  await people(at("others"), 30, 3, 2);
  write("segmentation.json", segmentation);
  write("faces.json", faces);
});

describe("segmentation", () => {
  test("trains, and the table has the run's own mIoU in both forms", async () => {
    const trained = await run(
      ...["train", "scenes", "--task", "segmentation", "--recipe", "segmentation.json", "--out", "seg", "--json"],
    );
    expect(trained.stderr).not.toContain("error");
    const last = JSON.parse(trained.stdout.trim().split("\n").at(-1)!);
    expect(last).toMatchObject({ arch: "PSPNet-RepVGG-A0", steps: 4 });
    expect(last.bestMiou).toBeGreaterThan(0);
    const checked = await run("test", "scenes", "check", "seg/train.pth", "--overlays", "page.html", "--mirror");
    expect(checked.stderr).not.toContain("error");
    expect(checked.stdout).toMatch(/class +IoU +merged/);
    expect(checked.stdout).toMatch(/disc +[\d.]+ %/);
    expect(checked.stdout).toMatch(/same class on [\d,]+ of 5,043 pixels \((99\.99|100)/);
    expect(checked.code).toBe(0);
    expect(readFileSync(at("page.html"), "utf8").match(/<figure>/g)).toHaveLength(3);
  });

  test("what is converted, exported and predicted is one network", async () => {
    const converted = await run("convert", "seg/train.pth", "seg/deploy.pth");
    expect(converted.stderr).not.toContain("error");
    const [train, deploy] = await Promise.all(
      (["train", "deploy"] as const).map((form) => run("test", "scenes", form, `seg/${form}.pth`, "--json")),
    );
    const numbers = (outcome: Outcome) => JSON.parse(outcome.stdout.trim().split("\n").at(-1)!).forms;
    expect(numbers(deploy).deploy.miou).toBeCloseTo(numbers(train).train.miou, 3);
    const exported = await run("export", "seg/train.pth", "seg.onnx");
    expect(exported.stderr).not.toContain("error");
    const onnx = await run("test", "scenes", "deploy", "seg.onnx", "--json");
    expect(numbers(onnx).deploy.miou).toBeCloseTo(numbers(train).train.miou, 3);
    const verified = await run("verify", "seg/train.pth", "seg/deploy.pth");
    expect(verified.stdout).toMatch(/same class on \d+ of 10824 pixels/);
    const predicted = await run("predict", "seg.onnx", "scenes/val/0.png", "--out", "said");
    expect(predicted.stdout).toMatch(/said\/0\.png, said\/0\.overlay\.png\n +[\d.]+ % {2}(ground|disc)/);
    const mask = decodeMask(readFileSync(at("said/0.png")), "0.png");
    expect([mask.width, mask.height, Math.max(...mask.labels) < 2]).toEqual([size, size, true]);
    // The palette is what a viewer shows.
    const shown = await sharp(at("said/0.png")).removeAlpha().raw().toBuffer();
    expect(shown.length).toBe(3 * size * size);
  });

  test("pictures are looked at as a whole where that is asked for, but not by a file of one size", async () => {
    const whole = await run(
      "test",
      "scenes",
      "train",
      "seg/train.pth",
      "--whole",
      "--scales",
      "0.5,1",
      "-o",
      "whole.json",
    );
    expect(whole.stderr).not.toContain("error");
    const { forms, pictures } = JSON.parse(readFileSync(at("whole.json"), "utf8"));
    expect(pictures).toBe(3);
    expect(forms.train.aacc).toBeGreaterThan(0);
    const refused = await run("test", "scenes", "deploy", "seg.onnx", "--whole");
    expect(refused.stderr).toMatch(/the ONNX file takes \[33, 41\] pixels, not \[41, 41\]\. Leave --whole out/);
  });

  test("transformers.js opens the folder, and its masks are ours", async () => {
    const { stderr } = await run("export", "seg/train.pth", "hub", "--layout", "hub", "--dtype", "float32");
    expect(stderr).not.toContain("error");
    const segment = await pipeline("image-segmentation", at("hub"), { dtype: "fp32" });
    // As large as the input, so that nothing is resized.
    const file = at("scenes/val/1.png");
    await sharp(file).extract({ left: 0, top: 0, width: 41, height: 33 }).png().toFile(at("cut.png"));
    const found = (await segment(await RawImage.read(at("cut.png")))) as unknown as { label: string; mask: RawImage }[];
    await run("predict", "hub/onnx/model.onnx", "cut.png", "--out", "said");
    const { labels } = decodeMask(readFileSync(at("said/cut.png")), "cut.png");
    for (const { label, mask } of found)
      expect(Array.from(mask.data, Number)).toEqual(
        Array.from(labels, (c) => (c === ["ground", "disc"].indexOf(label) ? 255 : 0)),
      );
    expect(found.length).toBe(new Set(labels).size);
  });

  test("in integers, trained for them or calibrated, is tested as any file", async () => {
    write("integers.json", { ...segmentation, epochs: 1, quantize: { batches: 1 } });
    const trained = await run("train", "scenes", "--recipe", "integers.json", "--out", "integers", "--json");
    expect(trained.stderr).not.toContain("error");
    const last = JSON.parse(trained.stdout.trim().split("\n").at(-1)!);
    expect(last.quantized.layers.length).toBeGreaterThan(5);
    const calibrated = await run(
      ...["quantize", "seg/train.pth", "seg8.onnx", "--calib", "scenes/train", "--calibrator", "minmax", "--json"],
    );
    expect(calibrated.stderr).not.toContain("error");
    // Pixel by pixel.
    expect(JSON.parse(calibrated.stdout).agreement).toBeGreaterThan(0.9);
    for (const file of ["integers/model.int8.onnx", "seg8.onnx"]) {
      const { code, stderr, stdout } = await run("test", "scenes", "deploy", file);
      expect([code, stderr]).toEqual([0, expect.not.stringContaining("error")]);
      expect(stdout).toMatch(/disc +[\d.]+ %/);
    }
  });

  test("takes the backbone's weights from a network of classes; its merge is the one alone", async () => {
    const classifier = createModel("RepVGG-A0", backboneOptions).initialize(5);
    const metadata = { arch: "RepVGG-A0", options: JSON.stringify(backboneOptions) };
    await saveCheckpointFile(at("classes.pth"), classifier.stateDict(), { metadata });
    const { backboneOptions: _, ...rest } = segmentation.model;
    write("frozen.json", { ...segmentation, model: rest, epochs: 1, train: ["cls.*"], lrScale: {} });
    const trained = await run(
      ...["train", "scenes", "--recipe", "frozen.json", "--backbone", "classes.pth", "--out", "own"],
    );
    expect(trained.stderr).not.toContain("error");
    using own = await openCheckpointFile(at("own/train.pth"));
    for (const [key, p] of classifier.parameters())
      if (!key.startsWith("linear."))
        expect((await own.entries.get(`backbone.${key}`)!.read()).data).toEqual(p.data.data);
    const refused = await run(
      ...["train", "scenes", "--recipe", "segmentation.json", "--backbone", "seg/train.pth", "--out", "no"],
    );
    expect(refused.stderr).toMatch(/seg\/train\.pth: .* The backbone of PSPNet-RepVGG-A0 is RepVGG-A0/s);
  });

  test("a backbone inside of a checkpoint merges as it does alone, to the bit", async () => {
    const classifier = createModel("RepVGG-A0", backboneOptions).initialize(6);
    const model = createModel("PSPNet-RepVGG-A0", { ...segmentation.model, numClasses: 2 } as never).initialize(7);
    const values = await Promise.all(
      [...classifier.stateDict()].map(async ([key, source]) => [`backbone.${key}`, await source.read()] as const),
    );
    model.loadStateDict(new Map(values), {
      allow: (key) => !key.startsWith("backbone.") || key.includes(".linear."),
    });
    const file = (name: string, net: typeof model, options: object) =>
      saveCheckpointFile(at(`${name}.pth`), net.stateDict(), {
        metadata: { arch: archOf[name], options: JSON.stringify(options) },
      });
    const archOf: Record<string, string> = { alone: "RepVGG-A0", within: "PSPNet-RepVGG-A0" };
    await file("alone", classifier, backboneOptions);
    await file("within", model, segmentation.model);
    for (const name of ["alone", "within"]) {
      const { stderr } = await run("convert", `${name}.pth`, `${name}_deploy.pth`, "--no-verify");
      expect(stderr).not.toContain("error");
    }
    using alone = await openCheckpointFile(at("alone_deploy.pth"));
    using within = await openCheckpointFile(at("within_deploy.pth"));
    const keys = [...alone.entries.keys()].filter((key) => !key.startsWith("linear."));
    expect([...within.entries.keys()].filter((key) => key.startsWith("backbone."))).toEqual(
      keys.map((key) => `backbone.${key}`),
    );
    for (const key of keys)
      expect((await within.entries.get(`backbone.${key}`)!.read()).data, key).toEqual(
        (await alone.entries.get(key)!.read()).data,
      );
    expect([...within.entries.keys()].some((key) => key.startsWith("aux."))).toBe(false);
  });

  test("FC1 and FC2 begin anew where the number of partitions is another one, and are named", async () => {
    const own = {
      ...{ numBlocks: [1, 2, 2, 1], channels: [8, 8, 8, 8], stemChannels: 4, partition: 4, groups: [1, 1] },
      ...{ bottleneckReduction: [1, 1], reparamConvKernels: [1] },
    };
    const arch = "RepMLP-Res50-bottleneck-224";
    const classifier = createModel(arch, { ...own, imageSize: 128 } as never).initialize(8);
    const metadata = { arch, options: JSON.stringify({ ...own, imageSize: 128 }) };
    await saveCheckpointFile(at("mlp.pth"), classifier.stateDict(), { metadata });
    // Maps of 16 and 8 there, of 8 and 8 here: 16 and 4 partitions, 4 and 4.
    write("mlp.json", {
      ...segmentation,
      ...{ arch: "PSPNet-RepMLP-Res50-g4/8", epochs: 1, lr: 1e-6, lrScale: {} },
      model: { backbone: arch, imageSize: [57, 57], bins: [1, 2], midChannels: 8, auxChannels: 8 },
    });
    const { stderr } = await run("train", "scenes", "--recipe", "mlp.json", "--backbone", "mlp.pth", "--out", "mlp");
    expect(stderr).not.toContain("error");
    const [, named] = /not taken from mlp\.pth: (.*)/.exec(stderr) ?? [];
    expect(named.split(", ").every((key) => /^backbone\.stage2\.1\.btnk_repmlp\.fc1_fc2\./.test(key))).toBe(true);
    expect(named).toContain("backbone.stage2.1.btnk_repmlp.fc1_fc2.fc1.weight");
    using trained = await openCheckpointFile(at("mlp/train.pth"));
    const fc3 = "stage2.1.btnk_repmlp.fc3.weight";
    const [before, after] = await Promise.all([
      classifier.stateDict().get(fc3)!.read(),
      trained.entries.get(`backbone.${fc3}`)!.read(),
    ]);
    expect(Number(after.data[5])).toBeCloseTo(Number(before.data[5]), 5);
  });

  test.for<readonly [string, string[], RegExp, (() => void)?]>([
    [
      "a task of another network",
      ["train", "scenes", "--task", "faces", "--recipe", "segmentation.json"],
      /PSPNet-RepVGG-A0 is a network for the task segmentation, not for faces/,
    ],
    [
      "no class names",
      ["train", "bare", "--recipe", "segmentation.json"],
      /bare: nothing says what the labels .* classes\.txt/,
      () => {
        for (const name of ["train", "trainannot", "val", "valannot"])
          mkdirSync(at(`bare/${name}`), { recursive: true });
      },
    ],
    [
      "no masks",
      ["train", "faces", "--recipe", "named.json"],
      /faces: holds no pictures with masks for "train"\. Expected train\/ and trainannot\//,
      () => write("named.json", { ...segmentation, task: { kind: "segmentation", classes: ["a", "b"] } }),
    ],
    [
      "an entry of another task",
      ["train", "scenes", "--recipe", "mix.json"],
      /entry "mix" says nothing to the task segmentation/,
      () => write("mix.json", { ...segmentation, mix: { mixup: 0.2 } }),
    ],
    [
      "labels beyond the classes",
      ["train", "scenes", "--recipe", "label.json"],
      /trainannot\/0\.png: the mask has label 9, but there are 2 classes \(0 … 1\)/,
      () => write("label.json", { ...segmentation, task: { kind: "segmentation" } }),
    ],
    [
      "options of tiles for classes",
      ["test", "scenes", "train", "classes.pth", "--mirror"],
      /--mirror says nothing to a network for classification/,
    ],
    [
      "shards of pixels",
      ["test", "scenes", "train", "seg/train.pth", "--shard", "1/2", "-o", "x.json"],
      /--shard says nothing to a network for segmentation/,
    ],
    [
      "embeddings of a network without",
      ["embed", "seg/train.pth", "scenes/val/0.png"],
      /holds a network for segmentation; embed takes one for faces/,
    ],
    [
      "two pictures of one name",
      ["predict", "seg.onnx", "scenes/val/0.png", "scenes/train/0.png"],
      /another picture has the same name/,
    ],
  ])("%s: refused", async ([, args, message, prepare]) => {
    prepare?.();
    const { code, stderr } = await run(...args);
    expect(stderr).toMatch(message);
    expect(code).not.toBe(0);
  });

  test("a class that never occurs is told of, and counts 0", async () => {
    write("three.json", {
      ...segmentation,
      epochs: 1,
      task: { ...segmentation.task, classes: ["ground", "disc", "bar"] },
    });
    const { stderr } = await run("train", "scenes", "--recipe", "three.json", "--out", "three");
    expect(stderr).toMatch(
      /1 of 3 classes occur in none of the 8 training masks looked at, such as .*0\.png: 2 \(bar\)/,
    );
  });
});

describe("faces", () => {
  test("train, are verified beside pixels and an untrained network, and drawn", async () => {
    const trained = await run("train", "faces", "--task", "faces", "--recipe", "faces.json", "--out", "face");
    expect(trained.stderr).not.toContain("error");
    expect(trained.stdout).toMatch(/best top-1 [\d.]+ %/);
    const pairs = Array.from({ length: 40 }, (_, i) => {
      const [a, b] = [10 + (i % 5), 10 + ((i + (i % 2) + 1) % 5)];
      return i % 2 ? `1,p${a}/${i % 4}.png,p${a}/${(i + 1) % 4}.png` : `0,p${a}/${i % 4}.png,p${b}/${i % 4}.png`;
    });
    writeFileSync(at("pairs.csv"), ["label,a,b", ...pairs].join("\n"));
    const { stdout, stderr, code } = await run(
      ...["verify-faces", "pairs.csv", "face/train.pth", "--data", "strangers/val", "--baselines", "--roc", "roc.svg"],
      ...["-o", "verified.json"],
    );
    expect(stderr).not.toContain("error");
    expect(code).toBe(0);
    const { results } = JSON.parse(readFileSync(at("verified.json"), "utf8"));
    expect(Object.keys(results)).toEqual(["pixels", "untrained", "train", "deploy"]);
    expect(results.deploy.mean).toBe(results.train.mean);
    expect(results.pixels.mean).toBeGreaterThan(0.9);
    expect(stdout).toMatch(/^deploy +[\d.]+ ± [\d.]+/m);
    expect(readFileSync(at("roc.svg"), "utf8")).toContain("true accept rate");
  });

  test("are identified in both forms, with others in the gallery", async () => {
    const { stdout, stderr } = await run(
      ...["test", "strangers", "check", "face/train.pth", "--distractors", "others", "--json"],
    );
    expect(stderr).not.toContain("error");
    const found = JSON.parse(stdout);
    expect(found).toMatchObject({ people: 5, probes: 15, distractors: 6 });
    expect(found.forms.deploy).toEqual(found.forms.train);
  });

  test("become vectors: for NumPy, as lines, the same from an exported file", async () => {
    const pictures = ["strangers/val/p10/0.png", "strangers/val/p11/1.png"];
    await run("embed", "face/train.pth", ...pictures, "-o", "v.npy");
    const bytes = readFileSync(at("v.npy"));
    const start = 10 + bytes.readUInt16LE(8);
    expect(bytes.toString("latin1", 10, start)).toMatch(/'<f4'.*'shape': \(2, 8\)/);
    expect(start % 64).toBe(0);
    const rows = [0, 1].map((i) => Array.from({ length: 8 }, (_, j) => bytes.readFloatLE(start + 4 * (8 * i + j))));
    for (const row of rows) expect(row.reduce((s, v) => s + v * v, 0)).toBeCloseTo(1, 5);
    const exported = await run("export", "face/train.pth", "face.onnx");
    expect(exported.stderr).not.toContain("error");
    const lines = await run("embed", "face.onnx", ...pictures, "-o", "v.jsonl", "--no-mirror");
    expect(lines.stderr).not.toContain("error");
    const [first] = readFileSync(at("v.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(first.image).toBe(pictures[0]);
    const alone = await run("embed", "face/train.pth", pictures[0], "--no-mirror", "--json");
    for (const [i, v] of JSON.parse(alone.stdout).embedding.entries()) expect(first.embedding[i]).toBeCloseTo(v, 4);
  });

  test("transformers.js makes the same vectors of length 1", async () => {
    const { stderr } = await run("export", "face/train.pth", "facehub", "--layout", "hub", "--dtype", "float32");
    expect(stderr).not.toContain("error");
    const embed = await pipeline("image-feature-extraction", at("facehub"), { dtype: "fp32" });
    const picture = at("strangers/val/p10/0.png");
    const theirs = (await embed(await RawImage.read(picture))) as unknown as { data: Float32Array };
    const own = JSON.parse((await run("embed", "face/train.pth", picture, "--no-mirror", "--json")).stdout).embedding;
    for (const [i, v] of own.entries()) expect(theirs.data[i]).toBeCloseTo(v, 4);
  });

  test.for<readonly [string, string[], RegExp, (() => void)?]>([
    [
      "a person with one picture",
      ["train", "lonely", "--recipe", "faces.json"],
      /lonely\/train: 1 of 2 people have fewer than two pictures, such as lonely\/train\/b with 1/,
      () => {
        for (const name of ["train/a", "train/b", "val/a"]) mkdirSync(at(`lonely/${name}`), { recursive: true });
        for (const to of ["train/a/0.png", "train/a/1.png", "train/b/0.png", "val/a/0.png"])
          copyFileSync(at("others/p30/0.png"), at(`lonely/${to}`));
      },
    ],
    [
      "nobody to be found",
      ["test", "lonely", "train", "face/train.pth"],
      /lonely\/val: 1 of 1 people have fewer than two pictures/,
    ],
    [
      "a line that is no pair",
      ["verify-faces", "bad.csv", "face/train.pth"],
      /bad\.csv: line 2 is no pair: "2,a\.png,b\.png"/,
      () => writeFileSync(at("bad.csv"), "label,a,b\n2,a.png,b.png\n"),
    ],
    [
      "pairs of one kind",
      ["verify-faces", "one.csv", "face/train.pth"],
      /of 1 pairs 1 are of one person/,
      () => writeFileSync(at("one.csv"), "label,a,b\n1,a.png,b.png\n"),
    ],
    [
      "a picture that is not there",
      ["verify-faces", "gone.csv", "face/train.pth", "--folds", "2"],
      /gone\.png: cannot be read/,
      () => writeFileSync(at("gone.csv"), "1,gone.png,gone.png\n0,gone.png,gone.png\n"),
    ],
    [
      "an unknown kind of file",
      ["embed", "face/train.pth", "others/p30/0.png", "-o", "v.txt"],
      /v\.txt must end in \.npy or \.jsonl/,
    ],
    ["classes of one face", ["predict", "face/train.pth", "others/p30/0.png"], /`repmlp embed`/],
  ])("%s: refused", async ([, args, message, prepare]) => {
    prepare?.();
    const { code, stderr } = await run(...args);
    expect(stderr).toMatch(message);
    expect(code).not.toBe(0);
  });
});

test("nothing is left behind where a command refused", () => {
  for (const name of ["no", "runs"]) expect(existsSync(at(name)), name).toBe(false);
});
