import { Predictor } from "../../src/inference/index.ts";
import { createModel, listModels } from "../../src/models/index.ts";
import { countMacs, countParameters } from "../../src/nn/index.ts";
import { convertToDeploy } from "../../src/reparam/index.ts";
import type { Shape, TensorSource } from "../../src/tensor/index.ts";
import { fillByFormula, formulaInput } from "./formula.ts";
import { type CaseResult, runCase } from "./report.ts";

/** What the goldens state of one full-size model. */
export interface FullsizeModel {
  readonly name: string;
  readonly input_shape: Shape;
  readonly logit_abs_max: number;
  readonly train_params: number;
  readonly deploy_params: number;
  readonly train_macs_conv_linear: number;
  readonly deploy_macs_conv_linear: number;
  readonly deploy_tensors: Readonly<Record<string, TensorRecord>>;
}

interface TensorRecord {
  readonly shape: Shape;
  readonly sum: number;
  readonly abs_sum: number;
  readonly first: number;
  readonly middle: number;
  readonly last: number;
}

/** Logits of both forms, sampled deploy weights, parameter and multiply-add counts of one full-size model. */
export function checkFullsize(record: FullsizeModel, logits: ReadonlyMap<string, TensorSource>): Promise<CaseResult> {
  const { name } = record;
  const known = listModels().find((m) => m.toLowerCase() === name.toLowerCase());
  if (!known)
    return Promise.resolve({ id: `fullsize/${name}`, status: "skipped", detail: "the model is not implemented" });
  return runCase(`fullsize/${name}`, async (check) => {
    const shape = record.input_shape;
    const model = fillByFormula(createModel(name)).eval();
    const deploy = convertToDeploy(model);
    const x = formulaInput(shape);
    for (const [form, net] of [
      ["train", model],
      ["deploy", deploy],
    ] as const) {
      const predictor = await Predictor.create(net, { inputShape: shape.slice(1), batchSize: shape[0] });
      const golden = logits.get(`${name}.${form}.logits`)!.readSync();
      check.near(`${form}.logits`, await predictor.run(x), golden, 2e-5 * record.logit_abs_max);
      await predictor.dispose();
      check.equal(`${form} parameters`, countParameters(net), record[`${form}_params`]);
      check.equal(`${form} multiply-adds`, countMacs(net, shape), record[`${form}_macs_conv_linear`]);
    }
    const own = deploy.stateDict();
    const tensors = record.deploy_tensors;
    check.equal("deploy keys", [...own.keys()].sort(), Object.keys(tensors).sort());
    for (const [key, golden] of Object.entries(tensors)) {
      const t = own.get(key)!.readSync();
      const values = t.toFloat64();
      check.equal(`shape of ${key}`, t.shape, golden.shape);
      const mean = golden.abs_sum / values.length;
      const sampled = [
        [values[0], golden.first],
        [values[Math.floor(values.length / 2)], golden.middle],
        [values[values.length - 1], golden.last],
      ];
      for (const [a, e] of sampled) check.within(`element of ${key}`, Math.abs(a - e), 1e-5 * Math.max(mean, 1e-12));
      const sum = values.reduce((a, b) => a + b, 0);
      const absSum = values.reduce((a, b) => a + Math.abs(b), 0);
      check.within(`sum of ${key}`, Math.abs(sum - golden.sum), 1e-5 * golden.abs_sum);
      check.within(`absolute sum of ${key}`, Math.abs(absSum - golden.abs_sum), 1e-5 * golden.abs_sum);
    }
  });
}
