import { describe, expect, it } from "vitest";
import { mergeOnnx } from "../../src/convert/onnx/index.ts";
import { convertToDeploy, createModel, exportOnnx, modelInfo, type Net } from "../../src/node.ts";
import { narrow } from "../models/narrow.ts";
import { withRandomState } from "../reparam/support.ts";
import { difference, operatorsOf } from "./onnx-models.ts";

/** Families whose merged form is what their graph comes to, without knowing them. */
const whole = [
  "RepVGG-A0",
  "QARepVGG-A0",
  "RepOpt-VGG-B1-search",
  "ResNet-18-ACB",
  "Cifar-quick-ACB",
  "Cifar-quick-DBB",
  "ResNet-56-RepVGG",
];

describe("a network that is exported with its branches", () => {
  it.each(narrow.filter(({ arch }) => whole.includes(arch)))(
    "becomes the export of its merged form: $arch",
    async (row) => {
      const net = withRandomState(createModel(row.arch, row.options)).eval();
      const [channels] = modelInfo(row.arch).preprocessing(row.options).inputSize;
      const inputShape = [channels, 32, 32] as const;
      const exported = async (n: Net, keepBranches: boolean) =>
        (await exportOnnx(n, { inputShape, keepBranches, check: false, batch: 2 })).model;
      const model = await exported(net, true);
      const { model: merged } = mergeOnnx(model);
      expect(operatorsOf(merged)).toEqual(operatorsOf(await exported(convertToDeploy(net), false)));
      expect(await difference(model, merged, [2, ...inputShape])).toBeLessThan(5e-6);
    },
  );

  it("is there for each of them", () => {
    expect(narrow.filter(({ arch }) => whole.includes(arch))).toHaveLength(whole.length);
  });
});
