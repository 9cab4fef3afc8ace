import { basename } from "node:path";
import type { Preprocessing } from "../../data/index.ts";
import { describePreprocessing } from "../../data/preprocessing/preprocess.ts";
import { must, type RepmlpError } from "../../errors.ts";
import { type ModelForm, mustBeForm } from "../../models/index.ts";
import type { CompileOptions } from "../../runtime/index.ts";
import type { Shape } from "../../tensor/index.ts";
import type { EvaluateDataOptions } from "../evaluate.ts";
import { type Classifier, fileSha256, openClassifier } from "./classifier.ts";
import { type ClassRule, openTestData, type TestData } from "./folder.ts";
import type { OpenModelOptions } from "./open-model.ts";

/** What is known before the first picture is looked at. */
export interface TestHeader {
  readonly arch: string;
  readonly form: ModelForm | undefined;
  /** Names and shapes of all tensors. */
  readonly tensors: readonly (readonly [name: string, shape: Shape])[];
  /** Preprocessing in words. */
  readonly preprocessing: string;
  readonly images: number;
  /** Class folders. */
  readonly classes: number;
  /** Outputs of the network. */
  readonly outputs: number;
  /** Whether a class map or the network's class names say which output a folder is; else it is the rank of its name. */
  readonly mapped: boolean;
  readonly classesBy: ClassRule;
  /** What one should know of the folder, as sentences. */
  readonly notes: readonly string[];
  /** SHA-256 over path and class index of every picture. */
  readonly labelsSha256: string;
  /** What of the weights' file was taken, or left out, in words. */
  readonly remarks: readonly string[];
}

export interface TestOptions
  extends Pick<EvaluateDataOptions, "onBatch" | "signal">,
    Omit<OpenModelOptions, "imageSize"> {
  /** Folder that holds `val`. */
  readonly data: string;
  /** Checkpoint or ONNX file. */
  readonly weights: string;
  /** Height and width of the input in pixels. Default: the architecture's. */
  readonly resolution?: number;
  /** Default 100. */
  readonly batchSize?: number;
  /** Threads that decode. Default 4. */
  readonly workers?: number;
  /** File that says which class index a folder is. Default: by the class names of the weights, else the rank of its name. */
  readonly classMap?: string;
  /** Where and how the network runs. */
  readonly compile?: CompileOptions;
  /** Whether a picture that cannot be read ends the test. Default: it is left out and named in the result. */
  readonly strict?: boolean;
  /** Is told of each picture that is left out. */
  readonly onUnreadable?: (error: RepmlpError) => void;
  readonly onHeader?: (header: TestHeader) => void;
}

/** Model and data of a test. */
export interface OpenTest {
  readonly classifier: Classifier;
  readonly data: TestData;
  readonly batchSize: number;
  /** Pictures per run of the network: no more than there are. */
  readonly runSize: number;
  /** Of the weights file. */
  readonly sha256: string;
  /** Pictures left out so far because they cannot be read, by their paths below `val`. */
  readonly unreadable: readonly string[];
}

/**
 * Opens model and data, checks that they fit, tells of them, runs `body`, and closes both.
 *
 * @throws RepmlpError `detect/form` when the file does not hold the wanted form
 */
export async function withTest<T>(
  options: TestOptions,
  form: ModelForm,
  body: (test: OpenTest) => Promise<T>,
): Promise<T> {
  const {
    weights,
    arch,
    numClasses,
    model,
    key,
    prefix,
    resolution: imageSize,
    batchSize = 100,
    workers = 4,
    classMap,
    strict = false,
  } = options;
  const sha256 = await fileSha256(weights);
  const classifier = await openClassifier(weights, { arch, imageSize, numClasses, model, key, prefix });
  try {
    const name = classifier.arch ?? basename(weights);
    mustBeForm({ name, form: classifier.form ?? form, numClasses: classifier.classes }, form, weights);
    mustBeSize(classifier.preprocessing, imageSize, weights);
    const { preprocessing, labels } = classifier;
    const unreadable: string[] = [];
    const leaveOut = (picture: string, error: RepmlpError): void => {
      unreadable.push(picture);
      options.onUnreadable?.(error);
    };
    const onUnreadable = strict ? undefined : leaveOut;
    const data = await openTestData(options.data, { preprocessing, workers, classMap, labels, onUnreadable });
    try {
      options.onHeader?.(headerOf(name, classifier, data));
      const runSize = Math.min(batchSize, data.dataset.length);
      return await body({ classifier, data, batchSize, runSize, sha256, unreadable });
    } finally {
      await data.close();
    }
  } finally {
    classifier.close();
  }
}

const headerOf = (arch: string, classifier: Classifier, data: TestData): TestHeader => ({
  arch,
  form: classifier.form,
  tensors: classifier.tensors,
  preprocessing: describePreprocessing(classifier.preprocessing),
  images: data.dataset.length,
  classes: data.classes,
  outputs: classifier.classes,
  mapped: data.classesBy !== "rank",
  classesBy: data.classesBy,
  notes: data.notes,
  labelsSha256: data.labelsSha256,
  remarks: classifier.remarks,
});

/** An ONNX file has its size built in. */
function mustBeSize({ inputSize }: Preprocessing, wanted: number | undefined, weights: string): void {
  must(
    wanted === undefined || (inputSize[1] === wanted && inputSize[2] === wanted),
    "test/resolution",
    () =>
      `${weights}: takes ${inputSize[1]} x ${inputSize[2]} pixels, not ${wanted} x ${wanted}. Leave the resolution out.`,
    "usage",
  );
}

/** Throws `test/unreadable` when pictures were left out and none is left. */
export function mustHaveRead(total: number, unreadable: readonly string[], data: string): void {
  must(
    total > 0 || unreadable.length === 0,
    "test/unreadable",
    () => `${data}: none of ${unreadable.length} pictures can be read. Look at ${unreadable[0]}.`,
    "file",
  );
}
