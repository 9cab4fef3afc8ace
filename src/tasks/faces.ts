import { type IdentityWeights, type MarginOptions, marginLogits, marginOf } from "../blocks/index.ts";
import { type Batch, isLabelled, type PictureSet } from "../data/index.ts";
import { must } from "../errors.ts";
import { crossEntropy } from "../graph/index.ts";
import { rankOf, rowLoss } from "../inference/index.ts";
import type { Net } from "../nn/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { oneHotTargets } from "./classification.ts";
import type { Task } from "./task.ts";

export interface FacesOptions {
  /** Margin head. Its `scale` and `margin` are by default those of the paper, made for many identities. */
  readonly head: MarginOptions;
}

/** A network of embeddings `[N, D]` with the weights of the identities that it is trained to tell apart. */
export type FaceNet = Net & { readonly identities: IdentityWeights | undefined };

/** Pictures whose identity was the nearest. */
export type FaceSums = { readonly correct: number };

/**
 * Telling faces apart: a margin softmax over the identities of the training pictures. What leads is the share of pictures
 * whose identity is the nearest, without a margin; the identities of the validation pictures are the same. How well people
 * are verified that were never seen is another question: see {@link verificationAccuracy}.
 *
 * The margin can grow with training: it is multiplied by the network's coefficient `margin`.
 */
export const faces = ({ head }: FacesOptions): Task<Batch, FaceNet, FaceSums> => {
  const { kind, scale, margin } = marginOf(head);
  return {
    name: "faces",
    settings: { head: kind, scale, margin },
    loss(net, { images, input }) {
      const identities = weightsOf(net);
      const output = identities.cosines(net.forward(images));
      const targets = input("targets", output.shape);
      const logits = marginLogits(output, targets, head, identities.margin.read(2));
      return { loss: crossEntropy(logits, targets), outputs: { output } };
    },
    feeds: ({ labels }, data) => ({ targets: oneHotTargets(labels, identitiesOf(data).length) }),
    outputs: (net, images) => ({ output: weightsOf(net).cosines(net.forward(images)) }),
    checkData(train, validation) {
      const [own, other] = [identitiesOf(train), identitiesOf(validation)];
      must(
        own.length === other.length && own.every((name, i) => name === other[i]),
        "faces/identities",
        () =>
          `faces: the training data has ${own.length} identities, the validation data ${other.length}, or others. Validate on other pictures of the same people; use verificationAccuracy for people who were never seen.`,
        "usage",
      );
    },
    checkOutputs({ output: [, outputs] }, data) {
      const identities = identitiesOf(data).length;
      must(
        outputs === identities,
        "faces/identities",
        () =>
          `faces: the network has weights for ${outputs} identities, the data has ${identities}. Build the network with identities: ${identities}.`,
        "usage",
      );
    },
    metrics: {
      zero: () => ({ correct: 0 }),
      add({ correct }, { output }, { labels }) {
        for (const [i, row] of rowsOf(output).entries()) if (rankOf(row, labels[i]) < 1) correct++;
        return { correct };
      },
      merge: (a, b) => ({ correct: a.correct + b.correct }),
      numbers: ({ correct }, pictures) => ({ top1: correct / pictures }),
      leading: "top1",
      higherIsBetter: true,
      addLoss(sum, { output }, { labels }) {
        for (const [i, row] of rowsOf(output).entries())
          sum += rowLoss(
            row.map((cosine) => scale * cosine),
            labels[i],
          );
        return sum;
      },
    },
    shows: {
      loss: "margin softmax",
      numbers: [{ name: "top1", label: "top-1", title: "Pictures nearest to their identity", percent: true }],
    },
  };
};

function weightsOf({ identities }: FaceNet): IdentityWeights {
  must(
    identities,
    "faces/weights",
    () =>
      "faces: this network has no weights of identities: a converted one comes without. Train and validate the training form; compare embeddings of the converted one with verificationAccuracy.",
    "model",
  );
  return identities;
}

function identitiesOf(data: PictureSet): readonly string[] {
  must(
    isLabelled(data),
    "faces/identities",
    () => "faces: these pictures have no identities. Use a data set with a class for each person.",
    "usage",
  );
  return data.classes;
}

const rowsOf = ({ data, shape: [count, size] }: Tensor): readonly Float32Array[] =>
  Array.from({ length: count }, (_, i) => (data as Float32Array).subarray(i * size, (i + 1) * size));
