import {
  addToConfusion,
  rocCurve,
  segmentationScores,
  squaredDistance,
  tarAtFar,
  unitEmbeddings,
  verificationAccuracy,
} from "../../src/tasks/index.ts";
import type { TensorSource } from "../../src/tensor/index.ts";
import { type CaseCheck, type CaseResult, reader, runCase } from "./report.ts";

export interface SegmentationMetricsCase {
  readonly id: string;
  readonly kind: "segmentation";
  readonly file: string;
  readonly classes: number;
  readonly ignore_index: number;
  readonly pictures: number;
  readonly confusion_rows_label_columns_prediction: readonly (readonly number[])[];
  readonly intersection: readonly number[];
  readonly union: readonly number[];
  readonly target: readonly number[];
  readonly iou: readonly number[];
  readonly acc: readonly number[];
  readonly mIoU: number;
  readonly mAcc: number;
  readonly allAcc: number;
  readonly mIoU_over_classes_that_occur: number;
}

interface FarResult {
  readonly tar: number;
  readonly tar_std: number;
  readonly far: number;
  readonly thresholds: readonly number[];
}

export interface VerificationCase {
  readonly id: string;
  readonly kind: "verification";
  readonly file: string;
  readonly folds: number;
  readonly accuracy_per_fold: readonly number[];
  readonly threshold_per_fold: readonly number[];
  readonly accuracy_mean: number;
  readonly accuracy_std: number;
  readonly tar_at_far: Readonly<Record<string, FarResult>>;
}

/** A case of the goldens' list `metrics`. */
export type MetricsCase = SegmentationMetricsCase | VerificationCase;

type Tensors = ReadonlyMap<string, TensorSource>;
type Numbers = ArrayLike<number>;

const TOLERANCE = 1e-12;

function near(check: CaseCheck, what: string, own: Numbers | number, golden: Numbers | number): void {
  const [a, b] = [own, golden].map((v) => (typeof v === "number" ? [v] : Array.from(v)));
  check.equal(`${what}: count`, a.length, b.length);
  const error = a.reduce((worst, v, i) => Math.max(worst, Math.abs(v - b[i])), 0);
  check.within(what, error, TOLERANCE);
}

function checkSegmentation(check: CaseCheck, c: SegmentationMetricsCase, tensors: Tensors): void {
  const get = reader(tensors);
  const confusion = new Array<number>(c.classes ** 2).fill(0);
  for (let i = 0; i < c.pictures; i++) {
    const [predicted, labels] = [`pred.${i}`, `label.${i}`].map((key) => get(key).toFloat64());
    addToConfusion(confusion, c.classes, predicted, labels, c.ignore_index);
  }
  const own = segmentationScores(confusion, c.classes);
  check.equal("confusion", confusion, c.confusion_rows_label_columns_prediction.flat());
  for (const counts of ["intersection", "union", "target"] as const) check.equal(counts, own[counts], c[counts]);
  near(check, "IoU", own.iou, c.iou);
  near(check, "accuracy", own.accuracy, c.acc);
  near(check, "mIoU", own.meanIou, c.mIoU);
  near(check, "mAcc", own.meanAccuracy, c.mAcc);
  near(check, "aAcc", own.pixelAccuracy, c.allAcc);
  near(check, "mIoU of classes that occur", own.meanIouPresent, c.mIoU_over_classes_that_occur);
}

function checkVerification(check: CaseCheck, c: VerificationCase, tensors: Tensors): void {
  const get = reader(tensors);
  const unit = unitEmbeddings(get("embeddings"), get("embeddings_mirrored"));
  const same = Array.from(get("issame").data, Number);
  const distances = same.map((_, i) => squaredDistance(unit[2 * i], unit[2 * i + 1]));
  near(check, "distances", distances, get("expected.distance").toFloat64());
  const pairs = { distances, same };
  const accuracy = verificationAccuracy(pairs, c.folds);
  near(check, "accuracy per fold", accuracy.perFold, c.accuracy_per_fold);
  near(check, "threshold per fold", accuracy.thresholds, c.threshold_per_fold);
  near(check, "accuracy", accuracy.mean, c.accuracy_mean);
  near(check, "deviation", accuracy.deviation, c.accuracy_std);
  for (const [far, golden] of Object.entries(c.tar_at_far)) {
    const own = tarAtFar(pairs, Number(far), c.folds);
    near(check, `TAR at FAR ${far}`, own.tar, golden.tar);
    near(check, `deviation of TAR at FAR ${far}`, own.deviation, golden.tar_std);
    near(check, `FAR at ${far}`, own.far, golden.far);
    near(check, `thresholds for FAR ${far}`, own.thresholds, golden.thresholds);
  }
  const roc = rocCurve(pairs, c.folds);
  near(check, "tpr", roc.tpr, get("expected.tpr").toFloat64());
  near(check, "fpr", roc.fpr, get("expected.fpr").toFloat64());
}

/** Counts exactly, ratios to 1e-12. */
export const checkMetrics = (c: MetricsCase, tensors: Tensors): Promise<CaseResult> =>
  runCase(c.id, async (check) => {
    if (c.kind === "segmentation") checkSegmentation(check, c, tensors);
    else if (c.kind === "verification") checkVerification(check, c, tensors);
    else check.fail(`metrics of another kind: ${(c as MetricsCase).kind}`);
  });
