import { PyramidPooling, resizeAligned, SegmentationHead } from "../../src/blocks/index.ts";
import { add, grad, input, mul, type Value } from "../../src/graph/index.ts";
import { Module, type Outputs, traceNet } from "../../src/nn/index.ts";
import { compileStep } from "../../src/runtime/index.ts";
import { pixelCrossEntropy, segmentation } from "../../src/tasks/index.ts";
import type { TensorSource } from "../../src/tensor/index.ts";
import { absMax, type CaseCheck, reader, withPrefix } from "./report.ts";

type Args = Readonly<Record<string, never>>;

/** PSPNet without its backbone, from the maps that this gives: `input` for the main head, `input2` for the auxiliary one. */
export class PSPNetHead extends Module {
  readonly ppm: PyramidPooling;
  readonly cls: SegmentationHead;
  readonly aux: SegmentationHead;
  readonly zoom: number;

  constructor(a: Args) {
    super();
    this.ppm = new PyramidPooling(a.fea_dim, a.bins);
    const [numClasses, dropout] = [a.classes, 0];
    const { outChannels: inChannels } = this.ppm;
    this.cls = new SegmentationHead({ inChannels, midChannels: a.cls_mid, numClasses, dropout });
    this.aux = new SegmentationHead({ inChannels: a.aux_in, midChannels: a.aux_mid, numClasses, dropout });
    this.zoom = a.zoom_factor;
  }

  outputsOf({ input: x, input2 }: Readonly<Record<string, Value>>): Outputs {
    const [height, width] = x.shape.slice(2).map((d) => (d - 1) * this.zoom + 1);
    const sized = (logits: Value): Value => resizeAligned(logits, [height, width]);
    return { output: sized(this.cls.forward(this.ppm.forward(x))), aux: sized(this.aux.forward(input2)) };
  }

  forward(): Value {
    throw new Error("the head has two inputs: see outputsOf");
  }
}

export interface SegmentationLosses {
  readonly aux_weight?: number;
  readonly ignore_index?: number;
  readonly trainmode_abs_tol?: Readonly<Record<string, number>>;
}

/** Losses of both heads in training mode, and the gradients of the task's loss, where the case has labels. */
export async function checkSegmentationLoss(
  check: CaseCheck,
  model: PSPNetHead,
  tensors: ReadonlyMap<string, TensorSource>,
  c: SegmentationLosses,
): Promise<void> {
  if (!tensors.has("labels")) return check.fail("the case has no labels");
  const get = reader(tensors);
  const labels = get("labels").cast("float32");
  const maps = { input: input("input", get("input").shape), input2: input("input2", get("input2").shape) };
  const masks = input("masks", labels.shape);
  const { classifier } = model.cls;
  const task = segmentation({
    classes: Array.from({ length: classifier.weight.shape[0] }, (_, i) => `class ${i}`),
    ignoreLabel: c.ignore_index,
    auxWeight: c.aux_weight,
  });
  const { result, names } = traceNet(
    model,
    () => {
      const outputs = model.outputsOf(maps);
      const net = Object.assign(model, { trainingOutputs: () => outputs, outputWeights: {} });
      const images = input("images", [labels.shape[0], 3, ...labels.shape.slice(1)]);
      const { loss } = task.loss(net, { images, input: () => masks });
      return { main: pixelCrossEntropy(outputs.output, masks), aux: pixelCrossEntropy(outputs.aux, masks), loss };
    },
    Object.values,
  );
  const golden = withPrefix(tensors, "lossgrad.");
  const parameters = new Map([...model.parameters()].map(([key, p]) => [key, p.value]));
  const wanted = [...golden.keys()];
  const gradients = grad(
    result.loss,
    wanted.map((key) => maps[key as keyof typeof maps] ?? parameters.get(key)!),
  );
  const program = await compileStep({
    outputs: {
      ...{ "loss.main": result.main, "loss.aux": result.aux },
      total: add(result.main, mul(result.aux, c.aux_weight ?? 0)),
      loss: result.loss,
      ...Object.fromEntries(wanted.map((key, i) => [`lossgrad.${key}`, gradients[i]])),
    },
    next: new Map(),
    names,
  });
  const fed = task.feeds({ images: get("input"), targets: labels }, { length: 0 } as never);
  const own = await program.step({ input: get("input"), input2: get("input2"), masks: fed.masks });
  await program.dispose();
  for (const what of ["loss.main", "loss.aux"]) check.near(what, own[what], get(what), 2e-6 * absMax(get(what)));
  check.near("loss", own.loss, own.total, 2e-6 * absMax(own.total));
  for (const [key, expected] of golden)
    check.near(
      `lossgrad.${key}`,
      own[`lossgrad.${key}`],
      expected,
      c.trainmode_abs_tol?.[`lossgrad.${key}`] ?? 1e-5 * absMax(expected) + 1e-6,
    );
}
