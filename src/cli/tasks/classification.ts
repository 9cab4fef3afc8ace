import { preprocess } from "../../data/index.ts";
import { describePreprocessing } from "../../data/preprocessing/preprocess.ts";
import { must } from "../../errors.ts";
import { parseClassNames } from "../../inference/class-names.ts";
import { isWithin } from "../../inference/compare.ts";
import { averages } from "../../inference/counts.ts";
import type { BatchResult } from "../../inference/evaluate.ts";
import type { Classifier } from "../../inference/node/index.ts";
import type { TestHeader, TestOptions } from "../../inference/node/open-test.ts";
import { runCheck } from "../../inference/node/run-check.ts";
import { runTest } from "../../inference/node/run-test.ts";
import { rankClasses } from "../../inference/rank.ts";
import { progressLine } from "../../inference/report.ts";
import { parseShard } from "../../inference/shard.ts";
import { sizeOf, Tensor } from "../../tensor/index.ts";
import { shown } from "../../text.ts";
import { eachPicture } from "../each-picture.ts";
import type { Io } from "../io.ts";
import { readText } from "../read-text.ts";
import type { Call } from "../table.ts";
import { reportTest, unreadableLine } from "../test-result.ts";
import { grouped, scientific } from "../text-table.ts";
import { noteRemarks, weightsOptions } from "../weights.ts";
import type { TaskView } from "./view.ts";

/** The original program prints a line every so many batches. */
const PRINT_EVERY = 10;

/** Accuracy on a folder of pictures, or the comparison of both forms on it. */
async function testClasses(call: Call<"test">): Promise<1 | undefined> {
  const { args, options, io } = call;
  const { mode } = args;
  const { workers, batchSize, resolution, classMap, threads, shard, strict } = options;
  const test: TestOptions = {
    ...{
      data: args.data,
      weights: args.weights,
      ...weightsOptions(options),
      workers,
      batchSize,
      resolution,
      classMap,
      strict,
    },
    onUnreadable: (error) => io.warn(error.message),
    compile: threads === undefined ? {} : { threads },
    signal: io.signal,
    onHeader: (header) => {
      noteRemarks(io, args.weights, header.remarks);
      showHeader(header, io);
    },
    onBatch: (batch) => showBatch(batch, io),
  };
  if (mode === "check") return check(call, test);
  const part = shard === undefined ? {} : { shard: parseShard(shard) };
  return reportTest(await runTest({ ...test, ...part, form: mode === "train" ? mode : "deploy" }), options, io);
}

/** The tensors as the original prints them; what identifies the run goes beside the results. */
function showHeader(header: TestHeader, io: Io): void {
  const { tensors, images, classes, outputs, mapped, classesBy, notes, labelsSha256 } = header;
  const { preprocessing, arch, form } = header;
  const total = tensors.reduce((n, [, shape]) => n + sizeOf(shape), 0);
  const { tensors: _, remarks: __, ...rest } = header;
  io.result({ type: "start", ...rest, totalParams: total }, () =>
    [...tensors.map(([name, shape]) => `${shown(name)} [${shape.join(", ")}]`), `total params:  ${total}`].join("\n"),
  );
  io.note(`${arch}, ${form ?? "unknown"} form; ${preprocessing}`);
  io.note(`${grouped(images)} pictures in ${grouped(classes)} class folders, labels ${labelsSha256.slice(0, 16)}`);
  if (classesBy === "name") io.note("folders are matched with the class names of the weights");
  for (const note of notes) io.warn(note);
  if (!mapped && classes !== outputs)
    io.warn(
      `the network has ${grouped(outputs)} classes, the data ${grouped(classes)} folders, which count as classes ` +
        `0 to ${classes - 1}. If these are some of the network's classes, say which with --class-map.`,
    );
}

function showBatch(result: BatchResult, io: Io): void {
  if (result.batch % PRINT_EVERY) return;
  const { batch, batches, seconds } = result;
  io.result({ type: "batch", batch, batches, seconds, ...averages(result.sum) }, () => progressLine(result));
}

async function check({ options, io }: Call<"test">, test: TestOptions): Promise<1 | undefined> {
  const result = await runCheck(test);
  const { train, deploy, maxAbsDiff, maxRel, scale, agree, unreadable, ...times } = result;
  const passed = isWithin(result, options.tolerance);
  const [a, b] = [averages(train), averages(deploy)];
  const forms = { train: { correct: train.correct, ...a }, deploy: { correct: deploy.correct, ...b } };
  io.result(
    { type: "result", passed, ...forms, total: train.total, maxAbsDiff, scale, agree, unreadable, ...times },
    () =>
      [
        ...unreadableLine(unreadable),
        `training form: ${train.correct} of ${train.total} (${a.top1.toFixed(3)} %), loss ${a.loss.toFixed(6)}`,
        `merged form:   ${deploy.correct} of ${deploy.total} (${b.top1.toFixed(3)} %), loss ${b.loss.toFixed(6)}`,
        `same first class for ${agree} of ${train.total} pictures`,
        `largest difference ${scientific(maxAbsDiff)} with logits up to ${scale.toPrecision(3)}: ` +
          `${scientific(maxRel)}, ${passed ? "within" : "above"} the tolerance of ${scientific(options.tolerance)}`,
      ].join("\n"),
  );
  return passed ? undefined : 1;
}

/** Classifies pictures, one after the other. */
async function predictClasses(
  { args: { weights, image: images }, options, io }: Call<"predict">,
  classifier: Classifier,
): Promise<1 | undefined> {
  const { topK = 5, labels: labelFile } = options;
  const { preprocessing, classes } = classifier;
  const labels = labelFile === undefined ? classifier.labels : parseClassNames(await readText(labelFile), labelFile);
  must(
    !labels || labels.length === classes,
    "predict/labels",
    () =>
      `${labelFile ?? weights}: has ${labels?.length} labels, the network ${classes} classes. Name them with --labels.`,
    "usage",
  );
  io.note(`${[classifier.arch, classifier.form && `${classifier.form} form`].filter(Boolean).join(", ") || weights}`);
  io.note(describePreprocessing(preprocessing));
  const compiled = await classifier.compile();
  const code = await eachPicture(images, io, async (image, picture) => {
    const values = preprocess(picture, preprocessing);
    const logits = await compiled.run(new Tensor("float32", [1, ...preprocessing.inputSize], values));
    const ranked = rankClasses(logits.data as Float32Array, topK).map((r) => ({ ...r, label: labels?.[r.index] }));
    io.result({ image, topK: ranked }, () =>
      [
        shown(image),
        ...ranked.map(
          ({ index, probability, label }) =>
            `  ${(100 * probability).toFixed(2).padStart(6)} %  ${label === undefined ? `class ${index}` : `${shown(label)} (${index})`}`,
        ),
      ].join("\n"),
    );
  });
  await compiled.dispose();
  return code;
}

export const view: TaskView = { test: testClasses, predict: predictClasses };
