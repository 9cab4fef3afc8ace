import { existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import {
  cifar10,
  compileModel,
  convertToDeploy,
  createModel,
  exportOnnx,
  openCheckpointFile,
  openOnnx,
  saveCheckpointFile,
  saveOnnx,
} from "../../src/node.ts";
import { claimRunFolder } from "../../src/training/node/run-folder.ts";
import { tinyRecipe, writeCifar } from "../recipes/support.ts";
import { repmlp, tempFolder } from "./harness.ts";

const folder = tempFolder();
const at = (name: string): string => join(folder, name);

const write = (name: string, changes: object = {}): string => {
  writeFileSync(at(name), JSON.stringify({ ...tinyRecipe, ...changes }));
  return at(name);
};

beforeAll(() => {
  writeCifar(at("cifar"));
  write("recipe.json");
});

const train = (...args: string[]): ReturnType<typeof repmlp> =>
  repmlp(["train", at("cifar"), "--recipe", at("recipe.json"), ...args], { cwd: folder });

describe("train", () => {
  test("by a recipe: logs, curves, weights; the final ones convert", async () => {
    const { code, stdout, stderr } = await train("--out", "run");
    expect(stderr).not.toContain("error");
    expect(code).toBe(0);
    expect(stdout).toMatch(/epoch 2\/2 .*top-1/);
    const [head, ...lines] = readFileSync(at("run/log.csv"), "utf8").trim().split("\n");
    expect(head).toMatch(/^epoch,/);
    expect(lines).toHaveLength(2);
    expect(readFileSync(at("run/curves.svg"), "utf8")).toMatch(/^<svg[\s\S]*cross entropy[\s\S]*top-1/);
    using file = await openCheckpointFile(at("run/train.pth"));
    createModel(tinyRecipe.arch, tinyRecipe.model).loadStateDict(file.entries);
    expect(existsSync(at("run/best.safetensors"))).toBe(true);
  });

  test("with the options of a step: an average that readers take, curves for TensorBoard, an early end", async () => {
    write("options.json", {
      ...{ epochs: 9, lr: 1e-12, clipNorm: 1, accumulate: 2, patience: 1, preciseBatchNorm: { batches: 2 } },
      ...{ ema: { decay: 0.9 }, schedule: { kind: "linear" } },
    });
    const { code, stdout, stderr } = await train("--recipe", at("options.json"), "--out", "options");
    expect(code).toBe(0);
    expect(stderr).toMatch(/ended after epoch \d: top-1 has not got better for 1 epochs/);
    expect(stdout).toContain("average  options/ema.pth");
    using file = await openCheckpointFile(at("options/ema.pth"));
    expect(file.wrapper).toBe("model_ema");
    createModel(tinyRecipe.arch, tinyRecipe.model).loadStateDict(file.entries);
    const events = readFileSync(at("options/events.out.tfevents.repmlp")).toString("latin1");
    expect(events).toContain("brain.Event:2");
    expect(events).toContain("val/top1");
  });

  test("a rate that makes the loss explode: the good checkpoint is kept and named", async () => {
    const constant = write("explode.json", { schedule: { kind: "constant" }, epochs: 1 });
    await train("--recipe", constant, "--out", "explode");
    const before = readFileSync(at("explode/last.safetensors"));
    const again = ["--recipe", constant, "--out", "explode", "--resume", "--epochs", "2", "--lr", "1e30"];
    const { code, stderr } = await train(...again);
    expect(stderr).toMatch(/step \d.*in epoch 2.*The last good checkpoint is explode\/last\.safetensors \(step 3\)/);
    expect(code).toBe(1);
    expect(readFileSync(at("explode/last.safetensors")).equals(before)).toBe(true);
    const other = write("other.json", { model: { ...tinyRecipe.model, channels: [4, 4, 8] }, epochs: 2 });
    const refused = await train("--recipe", other, "--out", "explode", "--resume");
    expect(refused.stderr).toMatch(
      /explode\/last\.safetensors: .*has shape \[.*\] in the file, the model expects .* It is of RepMLP-CIFAR10-pure-MLP\./,
    );
    expect(refused.code).toBe(1);
  });

  test("one run at a time writes to a folder, and none over another's results unasked", async () => {
    const mine = claimRunFolder(at("claimed"), { results: [] });
    const taken = await train("--out", "claimed");
    expect(taken.stderr).toContain(`claimed: another run writes there (process ${process.pid}, since `);
    expect(taken.code).toBe(2);
    mine.release();
    writeFileSync(at("claimed/best.safetensors"), "old");
    const refused = await train("--out", "claimed");
    expect(refused.stderr).toMatch(
      /holds the results of an earlier run \(best\.safetensors\).* --resume.* --overwrite.* --out/,
    );
    expect(refused.code).toBe(2);
    expect(readFileSync(at("claimed/best.safetensors"), "utf8")).toBe("old");
    // What is wrong is found before anything is taken away.
    const wrong = await train("--out", "claimed", "--overwrite", "--freeze", "head.*");
    expect(wrong.stderr).toContain('"head.*" fits no parameter');
    expect(readFileSync(at("claimed/best.safetensors"), "utf8")).toBe("old");
    const { code } = await train("--out", "claimed", "--overwrite", "--epochs", "1");
    expect(code).toBe(0);
    expect(readFileSync(at("claimed/best.safetensors"), "utf8")).not.toBe("old");
    expect(readdirSync(at("claimed")).filter((name) => name.startsWith("."))).toEqual([]);
  });

  test("a run resumed after one epoch ends with the same weights to the bit", async () => {
    // A constant rate, so that the first epoch does not depend on how many there are.
    write("constant.json", { schedule: { kind: "constant" } });
    const go = (out: string, ...args: string[]): ReturnType<typeof repmlp> =>
      train("--recipe", at("constant.json"), "--out", out, ...args);
    await go("whole");
    await go("parts", "--epochs", "1");
    const { stderr } = await go("parts", "--epochs", "2", "--resume");
    expect(stderr).toContain("resuming at step 3 of 6");
    expect(stderr).toContain("changed since then: epochs: 1 → 2");
    expect(readFileSync(at("parts/train.pth")).equals(readFileSync(at("whole/train.pth")))).toBe(true);
  });

  test("nothing to resume, and fewer epochs than were done, are refused with a way out", async () => {
    const none = await train("--out", "nowhere", "--resume");
    expect(none.stderr).toMatch(
      /there is no checkpoint to resume from: nowhere\/last\.safetensors does not exist\. Check .*--out.*without --resume/,
    );
    expect(none.code).toBe(2);
    expect(existsSync(at("nowhere"))).toBe(false);
    const fewer = await train("--recipe", at("constant.json"), "--out", "whole", "--resume", "--epochs", "1");
    expect(fewer.stderr).toMatch(
      /last\.safetensors is in epoch 2 \(step 6\), but --epochs is 1\. Set --epochs to 2 or more/,
    );
    expect(fewer.code).toBe(2);
  });

  test("pictures that cannot be read are named once, counted and left out", async () => {
    const folders = at("folders");
    const colours = { red: [220, 30, 30], blue: [30, 30, 220] };
    for (const [part, count] of [
      ["train", 8],
      ["val", 4],
    ] as const)
      for (const [name, rgb] of Object.entries(colours)) {
        mkdirSync(join(folders, part, name), { recursive: true });
        const pixels = Buffer.from(Array.from({ length: 32 * 32 }, () => rgb).flat());
        const picture = Buffer.concat([Buffer.from("P6\n32 32\n255\n"), pixels]);
        for (let i = 0; i < count; i++) writeFileSync(join(folders, part, name, `${i}.ppm`), picture);
        writeFileSync(join(folders, part, name, "broken.png"), "not a picture");
      }
    const recipe = write("folders.json", { model: { ...tinyRecipe.model, imageSize: 32 }, batchSize: 6, augment: [] });
    const args = ["train", folders, "--recipe", recipe, "--out", at("left"), "--workers", "0"];
    const { code, stderr } = await repmlp(args, { cwd: folder });
    expect(stderr).toMatch(/left out: 4 unreadable/);
    expect(code).toBe(0);
    for (const part of ["train", "val"])
      for (const name of Object.keys(colours))
        expect(stderr.split(join(folders, part, name, "broken.png")).length - 1, `${part}/${name}`).toBeGreaterThan(0);
  });

  test("fine-tuning: another head, frozen parts keep their values", async () => {
    const before = createModel(tinyRecipe.arch, { ...tinyRecipe.model, numClasses: 7 }).initialize(5);
    await saveCheckpointFile(at("seven.pth"), before.stateDict());
    const refused = await train("--init", "seven.pth", "--out", "tuned");
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/seven\.pth: .*linear\.weight has shape \[7, 6\].*--allow-mismatch "linear\.\*"/);
    const args = ["--init", "seven.pth", "--allow-mismatch", "linear.*", "--freeze", "stage1.*", "--out", "tuned"];
    const { code, stderr } = await train(...args);
    expect(code).toBe(0);
    expect(stderr).toContain("not taken from seven.pth: linear.weight, linear.bias");
    using file = await openCheckpointFile(at("tuned/train.pth"));
    const value = async (key: string): Promise<unknown> => (await file.entries.get(key)!.read()).data;
    const old = before.stateDict();
    expect(await value("stage1.fc1.conv.weight")).toEqual(old.get("stage1.fc1.conv.weight")!.readSync().data);
    expect(await value("stage2.fc1.conv.weight")).not.toEqual(old.get("stage2.fc1.conv.weight")!.readSync().data);
  });

  test("--num-classes: a new head, whatever the file's is; keys as DistributedDataParallel writes them", async () => {
    const before = createModel(tinyRecipe.arch, { ...tinyRecipe.model, numClasses: 7 })
      .initialize(5)
      .stateDict();
    await saveCheckpointFile(at("ddp.pth"), new Map([...before].map(([key, source]) => [`module.${key}`, source])));
    const args = ["--init", "ddp.pth", "--num-classes", "10", "--train", "linear.*", "--epochs", "1", "--out", "ten"];
    const { code, stderr } = await train(...args);
    expect(code).toBe(0);
    expect(stderr).toMatch(/^new head: linear\.weight, linear\.bias\n2 of \d+ parameters are trained$/m);
    using file = await openCheckpointFile(at("ten/train.pth"));
    const kept = await file.entries.get("stage2.fc1.conv.weight")!.read();
    expect(kept.data).toEqual(before.get("stage2.fc1.conv.weight")!.readSync().data);
  });

  test("--fc3-batch-norm: a merged network is trained, and converts again", async () => {
    const merged = convertToDeploy(createModel(tinyRecipe.arch, tinyRecipe.model).initialize(5).eval());
    await saveCheckpointFile(at("merged.pth"), merged.stateDict());
    const refused = await train("--init", "merged.pth", "--out", "bad");
    expect(refused.stderr).toMatch(/holds a merged network: fine-tune its training form, or .*--fc3-batch-norm/);
    const { code, stderr } = await train("--init", "merged.pth", "--fc3-batch-norm", "--epochs", "1", "--out", "faq");
    expect(stderr).not.toContain("not taken");
    expect(code).toBe(0);
    using file = await openCheckpointFile(at("faq/train.pth"));
    const extra = [...file.entries.keys()].filter((key) => !merged.stateDict().has(key));
    expect(extra).toHaveLength(6 * 5);
    expect(extra.every((key) => key.includes(".fc3_bn."))).toBe(true);
  });

  test("--replace-convs: a merged network is trained with branches, goes on, and converts to what it was", async () => {
    const model = {
      ...tinyRecipe,
      arch: "RepVGG-A0",
      model: { imageSize: 32, widthMultiplier: [0.1, 0.1, 0.1, 0.1], numBlocks: [1, 1, 1, 1] },
    };
    writeFileSync(at("vgg.json"), JSON.stringify(model));
    const merged = convertToDeploy(
      createModel(model.arch, { ...model.model, numClasses: 10 })
        .initialize(5)
        .eval(),
    );
    await saveCheckpointFile(at("plain.pth"), merged.stateDict());
    const args = ["--recipe", "vgg.json", "--init", "plain.pth", "--replace-convs", "dbb", "--out", "branched"];
    const { code, stderr } = await train(...args, "--epochs", "1");
    expect(stderr).not.toContain("not taken");
    expect(code).toBe(0);
    using file = await openCheckpointFile(at("branched/train.pth"));
    expect([...file.entries.keys()]).toContain("stage1.0.rbr_reparam.branches.dbb_avg.conv.weight");
    const again = await train(...args, "--epochs", "2", "--resume");
    expect(again.code, again.stderr).toBe(0);
    const converted = await repmlp(["convert", at("branched/train.pth"), at("branched/plain.pth")]);
    expect(converted.code, converted.stderr).toBe(0);
    using plain = await openCheckpointFile(at("branched/plain.pth"));
    expect([...plain.entries.keys()]).toEqual([...merged.stateDict().keys()]);
    const verified = await repmlp(["verify", at("branched/train.pth"), at("branched/plain.pth")]);
    expect(verified.code, verified.stderr).toBe(0);
    const both = await train(...args, "--fc3-batch-norm");
    expect([both.code, both.stderr]).toEqual([
      2,
      expect.stringContaining("are two forms to train in. Give one of them"),
    ]);
  });

  test.for([
    [["--recipe", "none"], /"none" is neither a file nor a recipe/, 2],
    [["--freeze", "head.*"], /freeze: "head\.\*" fits no parameter/, 2],
    [["--arch", "RepMLP-Mixer-28"], /pictures are 3 x 32 x 32, RepMLP-Mixer-28 takes 1 x 28 x 28/, 1],
    [["--lr", "1e30"], /loss is .* at step \d.*Lower the learning rate/, 1],
  ] as const)("%j is refused", async ([args, message, expected]) => {
    const { code, stderr } = await train(...args, "--out", "bad");
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(code).toBe(expected);
  });

  test.for([
    ["a label out of range", (path: string) => patch(path, 3 * 3073, 17), /data_batch_1\.bin: record 3.*17/],
    ["a file cut short", (path: string) => truncateSync(path, 5000), /data_batch_1\.bin: 5000 bytes are not whole/],
  ] as const)("%s names file and record", async ([name, spoil, message]) => {
    const data = writeCifar(at(name));
    spoil(join(data, "data_batch_1.bin"));
    const { code, stderr } = await repmlp(["train", data, "--recipe", at("recipe.json"), "--out", at("bad")]);
    expect(stderr).toMatch(message);
    expect(code).toBe(1);
  });

  test("a folder that holds no data set", async () => {
    const { code, stderr } = await repmlp(["train", at("run"), "--recipe", at("recipe.json")], { cwd: folder });
    expect(stderr).toMatch(/run: holds no data set\. Expected CIFAR-10/);
    expect(code).toBe(1);
  });
});

describe("an ONNX model", () => {
  const onnx = (...args: string[]): ReturnType<typeof repmlp> => train("--init", "start.onnx", ...args);

  beforeAll(async () => {
    const net = createModel(tinyRecipe.arch, { ...tinyRecipe.model, numClasses: 4 })
      .initialize(3)
      .eval();
    const { model } = await exportOnnx(net, {
      inputShape: [3, 32, 32],
      check: false,
      metadata: { extra: { author: "me" } },
    });
    await saveOnnx(at("start.onnx"), model);
  });

  test("is trained with a new head, stopped, resumed and written again; the file predicts as the run measured", async () => {
    const normalization = { mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25] };
    const args = ["--num-classes", "10", "--train", "linear.*", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"];
    const first = await onnx(...args, "--out", "onnx", "--epochs", "1");
    expect(first.stderr).toMatch(
      /^new head: .*linear\.weight.*\npictures: RGB, .*mean 0\.5, 0\.5, 0\.5, std 0\.25, .*the command line.*\n2 of \d+ parameters are trained/m,
    );
    expect(first.code).toBe(0);
    const { code, stdout, stderr } = await onnx(...args, "--out", "onnx", "--epochs", "2", "--resume");
    expect(stderr).toContain("resuming at step 3 of 6");
    expect(code).toBe(0);
    expect(stdout).toContain("model    onnx/model.onnx");
    const top1 = Number(/epoch 2\/2 .*test loss .*?top-1 +([\d.]+) %/.exec(stdout)?.[1]);

    const [before, model] = [await openOnnx(at("start.onnx")), await openOnnx(at("onnx/model.onnx"))];
    expect(model.nodes).toEqual(before.nodes);
    for (const [key, source] of before.initializers)
      if (!key.startsWith("linear."))
        expect(model.initializers.get(key)?.readSync().data, key).toEqual(source.readSync().data);
    expect(model.metadata).toMatchObject({ author: "me", labels: expect.stringContaining('"airplane"') });
    expect(JSON.parse(model.metadata!.preprocessing)).toMatchObject({ inputSize: [3, 32, 32], ...normalization });
    const data = await cifar10(at("cifar"), "test", normalization);
    const { images, labels } = await data.batch(Array.from({ length: data.length }, (_, i) => i));
    const program = await compileModel(model);
    const { logits } = await program.run({ pixel_values: images });
    await program.dispose();
    const best = (i: number): number => {
      const row = [...(logits.data as Float32Array).subarray(10 * i, 10 * i + 10)];
      return row.indexOf(Math.max(...row));
    };
    const right = labels.filter((label, i) => best(i) === label).length;
    expect((100 * right) / data.length).toBeCloseTo(top1, 1);
  });

  test("--replace-convs: branches are trained beside its convolutions, and are in them in the model that is written", async () => {
    const sizes = { imageSize: 32, widthMultiplier: [0.1, 0.1, 0.1, 0.1], numBlocks: [1, 1, 1, 1], numClasses: 4 };
    const net = createModel("RepVGG-A0", sizes).initialize(3).eval();
    await saveOnnx(at("convs.onnx"), (await exportOnnx(net, { inputShape: [3, 32, 32], check: false })).model);
    const args = ["--init", "convs.onnx", "--num-classes", "10", "--replace-convs", "acb", "--out", "branched-onnx"];
    const { code, stderr } = await train(...args);
    expect(code, stderr).toBe(0);
    using file = await openCheckpointFile(at("branched-onnx/train.pth"));
    expect([...file.entries.keys()].some((key) => key.includes(".branches.ver_conv."))).toBe(true);
    const [before, after] = [await openOnnx(at("convs.onnx")), await openOnnx(at("branched-onnx/model.onnx"))];
    expect(after.nodes.map(({ opType }) => opType)).toEqual(before.nodes.map(({ opType }) => opType));
  });

  test("trainable says what can be trained", async () => {
    const { stdout, code } = await repmlp(["trainable", at("start.onnx")]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^output +logits, 4 classes\nhead +linear\.weight, linear\.bias\nweights +\d+/);
    expect(stdout).toContain("can be trained");
  });

  test("trainable and train name an op without a gradient", async () => {
    const model = await openOnnx(at("start.onnx"));
    const [last] = model.nodes.slice(-1);
    const rounded = { opType: "Round", name: "quantizer", inputs: [last.inputs[0]], outputs: ["rounded"], attrs: {} };
    const nodes = [...model.nodes.slice(0, -1), rounded, { ...last, inputs: ["rounded", ...last.inputs.slice(1)] }];
    await saveOnnx(at("rounded.onnx"), { ...model, nodes });
    const said = await repmlp(["trainable", at("rounded.onnx")]);
    expect(said.stdout).toMatch(/round \(quantizer\) has a gradient of zero; .* get no gradient\ncannot be trained so/);
    expect(said.code).toBe(1);
    const { stderr, code } = await train("--init", "rounded.onnx", "--num-classes", "10", "--out", "bad");
    expect(stderr).toMatch(/training: round \(quantizer\) has a gradient of zero; .*Freeze what lies before/);
    expect(code).toBe(1);
  });

  test.for([
    [[], /output has 4 classes, the data 10\. Ask for a new head: --num-classes 10/, 2],
    [["--num-classes", "10", "--fc3-batch-norm"], /--fc3-batch-norm are for checkpoints/, 2],
  ] as const)("%j is refused", async ([args, message, expected]) => {
    const { code, stderr } = await onnx(...args, "--out", "bad");
    expect(stderr).toMatch(message);
    expect(code).toBe(expected);
  });
});

function patch(path: string, at: number, value: number): void {
  const bytes = readFileSync(path);
  bytes[at] = value;
  writeFileSync(path, bytes);
}

describe("experiment", () => {
  const run = (...args: string[]): ReturnType<typeof repmlp> => experiment("cifar10", at("experiment"), ...args);
  const experiment = (name: string, out: string, ...args: string[]): ReturnType<typeof repmlp> =>
    repmlp(["experiment", name, "--data", at("cifar"), "--out", out, ...args], { cwd: folder });

  test("variants in a table beside the paper's figures, and a plot; finished ones are kept", async () => {
    const args = ["--epochs", "1", "--variants", "conv9", "wide-convnet"];
    const { code, stdout } = await run(...args);
    expect(code).toBe(0);
    expect(stdout).toMatch(/Wide ConvNet +\d+\.\d\d +\d+\.\d\d +0 +438634 +437610 +65\.111 +65\.111 +91\.99/);
    const table = readFileSync(at("experiment/results.md"), "utf8");
    expect(table.trim().split("\n")).toHaveLength(4);
    expect(readFileSync(at("experiment/accuracy.svg"), "utf8")).toContain("wide-convnet");
    const before = readFileSync(at("experiment/results.json"), "utf8");
    expect(JSON.parse(before)[0].differing).toEqual([]);
    expect((await run(...args)).code).toBe(0);
    expect(readFileSync(at("experiment/results.json"), "utf8")).toBe(before);
  });

  test("that of ACNet: the network's convolutions of several kinds, which merge into the same", async () => {
    const { code, stdout } = await experiment("acnet", at("acnet"), "--epochs", "1", "--variants", "plain", "acb");
    expect(code).toBe(0);
    expect(stdout).toMatch(/Cifar-quick, plain +\d+\.\d\d +\d+\.\d\d +0 +117034 +116906 +10\.764 +10\.764 +86\.20/);
    expect(stdout).toMatch(/Cifar-quick, ACB +\d+\.\d\d +\d+\.\d\d +0 +149226 +116906 +15\.054 +10\.764 +86\.87/);
    expect((await experiment("resnet", at("acnet"))).stderr).toContain('there is cifar10 and acnet, not "resnet"');
  });

  test.for([
    [["--epochs", "2"], /holds an experiment with epochs 1, this one has epochs 2/],
    [["--variants", "mlp"], /there is no variant "mlp"\. There are pure-mlp, /],
  ] as const)("%j is refused", async ([args, message]) => {
    const { code, stderr } = await run(...args);
    expect(stderr).toMatch(message);
    expect(code).toBe(2);
  });
});
