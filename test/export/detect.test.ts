import { expect, test } from "vitest";
import { withFc3BatchNorm } from "../../src/blocks/index.ts";
import { createDetected, createModel, detectModel, mustBeForm } from "../../src/models/index.ts";
import { deployForm } from "../../src/reparam/index.ts";

test("architectures are found in both forms, with its number of classes", () => {
  for (const name of ["RepMLP-Mixer-28", "RepMLP-Res50-bottleneck-320-g8/16"])
    for (const form of ["train", "deploy"] as const) {
      const model = createModel(name, { numClasses: 77 });
      const state = new Map((form === "train" ? model : deployForm(model)).state());
      const found = detectModel(state);
      expect(found).toEqual({ name, form, numClasses: 77 });
      expect([...createDetected(found).state()].map(([key]) => key)).toEqual([...state.keys()]);
    }
});

test("counters may be absent, other image sizes are options", () => {
  const model = createModel("RepMLP-Res50-light-224", { imageSize: 448 });
  const state = new Map([...model.state()].filter(([key]) => !key.endsWith("num_batches_tracked")));
  const found = detectModel(state, { arch: "repmlp_res50_light_224", options: { imageSize: 448 } });
  expect(found).toEqual({ name: "RepMLP-Res50-light-224", form: "train", numClasses: 1000 });
});

const state = new Map<string, { shape: readonly number[] }>(createModel("RepMLP-Mixer-28").state());

test("what does not fit is told with the nearest architecture", () => {
  const damaged = new Map(state);
  damaged.delete("rep1.fc3.weight");
  damaged.set("head.weight", { shape: [3] });
  damaged.set("fc0.conv.weight", { shape: [16, 3, 1, 1] });
  expect(() => detectModel(damaged, { where: "x.pth" })).toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: x.pth: no known architecture has these keys and shapes. Nearest is the training form of RepMLP-Mixer-28: missing 1: rep1.fc3.weight. unexpected 1: head.weight. other shapes 1: fc0.conv.weight is [16, 3, 1, 1] instead of [16, 1, 1, 1]. Name the architecture (-a) if it is one of those, with its options (--image-size, --model-option).]`,
  );
  expect(() => detectModel(state, { arch: "resnet50" })).toThrow(
    "checkpoint: does not hold ResNet-50-base-224. Compared with its training form: missing",
  );
});

test("the wrong form is told in one sentence", () => {
  expect(() => mustBeForm(detectModel(state), "deploy", "x.pth")).toThrowErrorMatchingInlineSnapshot(
    `[RepmlpError: x.pth: holds the training form of RepMLP-Mixer-28, not the deploy form (already merged). Say "train", or load the other file.]`,
  );
});

test("a merged network with batch norms after FC3 is a training form of its own, which merges again", () => {
  const merged = deployForm(createModel("RepMLP-Mixer-28", { numClasses: 7 }).eval());
  const state = new Map(withFc3BatchNorm(merged).state());
  const found = detectModel(state);
  expect(found).toEqual({ name: "RepMLP-Mixer-28", form: "train", numClasses: 7, trainingForm: "fc3BatchNorm" });
  const net = createDetected(found);
  expect([...net.state()].map(([key]) => key)).toEqual([...state.keys()]);
  expect([...net.modules()].filter(([, m]) => m.training)).toEqual([]);
  expect([...deployForm(net).state()].map(([key]) => key)).toEqual([...merged.state()].map(([key]) => key));
});
