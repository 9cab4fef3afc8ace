import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { openCheckpointFile, saveCheckpointFile } from "../../src/node.ts";
import { tinyRecipe, writeCifar } from "../recipes/support.ts";
import { repmlp, tempFolder } from "./harness.ts";

/* A network that a recipe's options made other than its architecture is used like any other afterwards. */

const folder = tempFolder();
const at = (name: string): string => join(folder, name);
let said = "";

/** A grey picture as a portable anymap. */
const picture = (path: string): void =>
  writeFileSync(path, Buffer.concat([Buffer.from("P6 32 32 255\n"), Buffer.alloc(32 * 32 * 3, 128)]));

beforeAll(async () => {
  writeCifar(at("cifar"));
  writeFileSync(at("recipe.json"), JSON.stringify({ ...tinyRecipe, epochs: 1, ema: { decay: 0.9 } }));
  const { code, stdout, stderr } = await repmlp(["train", "cifar", "--recipe", "recipe.json", "--out", "run"], {
    cwd: folder,
  });
  expect(stderr).not.toContain("error");
  expect(code).toBe(0);
  said = stdout;
  picture(at("grey.ppm"));
  for (const name of ["airplane", "truck"]) {
    mkdirSync(at(`pictures/val/${name}`), { recursive: true });
    picture(at(`pictures/val/${name}/a.ppm`));
  }
});

test("the advice that train prints last works as printed", async () => {
  const advice = /^convert with: repmlp (.*)$/m.exec(said)?.[1].split(" ") ?? [];
  const { code, stdout, stderr } = await repmlp(advice, { cwd: folder });
  expect(stderr).not.toContain("error");
  expect(stdout).toContain("wrote deploy.pth");
  expect(code).toBe(0);
  using deploy = await openCheckpointFile(at("deploy.pth"));
  expect(deploy.metadata).toMatchObject({ form: "deploy", options: JSON.stringify(tinyRecipe.model) });
  const again = await repmlp(["verify", "run/train.pth", "deploy.pth"], { cwd: folder });
  expect(again.stdout).toMatch(/^passed$/m);
});

/** Every file that a run leaves, and every command that opens one. */
describe.each(["run/train.pth", "run/ema.pth", "run/best.safetensors", "run/last.safetensors"])("%s", (file) => {
  test.for([
    ["convert", [file, "out.safetensors", "--no-verify"], /blocks merged/],
    ["verify", [file], /^passed$/m],
    ["export", [file, "out.onnx"], /merged/],
    ["predict", [file, "grey.ppm"], /% {2}(airplane|automobile|bird|cat|deer|dog|frog|horse|ship|truck) \(\d\)/],
    ["test", ["pictures", "train", file], /top|Acc/i],
    ["train", ["cifar", "--recipe", "fine.json", "--init", file, "--out", "again", "--overwrite"], /best top-1/],
  ] as const)("%s opens it", async ([command, args, expected]) => {
    const { arch: _, model: __, ...fine } = tinyRecipe;
    writeFileSync(at("fine.json"), JSON.stringify({ ...fine, epochs: 1 }));
    const { code, stdout, stderr } = await repmlp([command, ...args], { cwd: folder });
    expect(stderr).not.toContain("error");
    expect(stdout).toMatch(expected);
    expect(code).toBe(0);
    if (file.includes("last")) expect(stderr).toMatch(/\d+ tensors of the optimizer were left out/);
  });
});

test("class names go into what is exported", async () => {
  await repmlp(["export", "run/train.pth", "named.onnx", "--no-check"], { cwd: folder });
  const { stdout } = await repmlp(["predict", "named.onnx", "grey.ppm", "--json"], { cwd: folder });
  expect(JSON.parse(stdout).topK[0].label).toMatch(/^[a-z]+$/);
});

test("--model-option says what a file does not state", async () => {
  using file = await openCheckpointFile(at("run/train.pth"));
  await saveCheckpointFile(at("bare.pth"), file.entries);
  const bare = ["convert", "bare.pth", "bare-deploy.pth", "--no-verify", "-a", tinyRecipe.arch];
  const refused = await repmlp(bare, { cwd: folder });
  expect([refused.code, refused.stderr]).toEqual([1, expect.stringMatching(/--model-option/)]);
  const given = ["--model-option", "channels=[4,4,6]", "--model-option", "reparamConvKernels=[1,3]"];
  expect((await repmlp([...bare, ...given], { cwd: folder })).code).toBe(0);
  const wrong = await repmlp([...bare, "--model-option", "channels"], { cwd: folder });
  expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringMatching(/must be a name and a value/)]);
});
