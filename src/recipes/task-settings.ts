import * as v from "valibot";
import { marginKinds } from "../blocks/index.ts";

const amount = v.pipe(v.number(), v.finite(), v.minValue(0));
const positive = v.pipe(v.number(), v.finite(), v.gtValue(0));
const share = v.pipe(v.number(), v.minValue(0), v.maxValue(1));
const label = v.pipe(v.number(), v.safeInteger(), v.minValue(0), v.maxValue(255));

/** What each task leaves open, as a recipe (entry `task`) and a checkpoint's metadata say it. */
const settings = {
  classification: v.strictObject({ kind: v.literal("classification") }),
  segmentation: v.strictObject({
    kind: v.literal("segmentation"),
    /** Names of the classes in the order of their labels. Default: the lines of `classes.txt` beside the data. */
    classes: v.optional(v.pipe(v.array(v.string()), v.minLength(1))),
    /** Label of pixels that count nowhere. Default 255. */
    ignoreLabel: v.optional(label),
    /** Label 0 counts nowhere, and classes begin with label 1. */
    fromOne: v.optional(v.boolean()),
    /** How much the auxiliary head's loss counts. Default what the network says. */
    auxWeight: v.optional(amount),
    /** Random changes of pictures and masks together. */
    augment: v.optional(
      v.strictObject({
        scale: v.optional(v.tuple([positive, positive])),
        rotate: v.optional(amount),
        rotateProbability: v.optional(share),
        blur: v.optional(share),
        flip: v.optional(share),
      }),
    ),
  }),
  faces: v.strictObject({
    kind: v.literal("faces"),
    /** Kind of margin. Default `amsoftmax`. */
    head: v.optional(v.picklist(marginKinds)),
    /** Default that of the head's paper. */
    scale: v.optional(positive),
    margin: v.optional(amount),
  }),
};

/** Name of a task. */
export type TaskName = keyof typeof settings;

/** Names of the tasks. */
export const taskNames = Object.keys(settings) as readonly TaskName[];

/** Settings of one task, told by their `kind`. */
export const taskSettings = v.variant("kind", [settings.classification, settings.segmentation, settings.faces]);

/** See {@link taskSettings}. */
export type TaskSettings = v.InferOutput<typeof taskSettings>;

/** Those of one task. */
export type SettingsOf<K extends TaskName> = Extract<TaskSettings, { readonly kind: K }>;
