import * as v from "valibot";

/*
 * Values that options of networks have. The message of each says what is expected, in words that follow "must be".
 * The limits are far beyond any network, and keep a file that states options from asking for an endless one.
 */

const LIMITS = { size: 2 ** 20, length: 1024 };

/** A whole number from 1. */
export const whole = v.pipe(
  v.number("a whole number from 1"),
  v.safeInteger("a whole number from 1"),
  v.minValue(1, "a whole number from 1"),
  v.maxValue(LIMITS.size, `at most ${LIMITS.size}`),
);

/** A number above 0. */
export const positive = v.pipe(
  v.number("a number above 0"),
  v.finite("a number above 0"),
  v.gtValue(0, "a number above 0"),
  v.maxValue(LIMITS.size, `at most ${LIMITS.size}`),
);

/** A number from 0. */
export const fromZero = v.pipe(
  v.number("a number from 0"),
  v.finite("a number from 0"),
  v.minValue(0, "a number from 0"),
  v.maxValue(LIMITS.size, `at most ${LIMITS.size}`),
);

/** Sizes of a narrower network's parameters, by key; 0 for one that stays. */
export const prunedShapes = v.record(
  v.string("sizes by the keys of parameters"),
  v.array(
    v.pipe(
      v.number("a whole number from 0"),
      v.safeInteger("a whole number from 0"),
      v.minValue(0, "a whole number from 0"),
    ),
    "a list of sizes",
  ),
  "sizes by the keys of parameters",
);

/** Paths of layers. */
export const layerPaths = v.array(v.string("a list of paths of layers"), "a list of paths of layers");

/** A probability: from 0, below 1. */
export const probability = v.pipe(
  v.number("a number from 0, below 1"),
  v.minValue(0, "a number from 0, below 1"),
  v.ltValue(1, "a number from 0, below 1"),
);

/** A share of a whole: above 0, up to 1. */
export const share = v.pipe(
  v.number("a number above 0, up to 1"),
  v.gtValue(0, "a number above 0, up to 1"),
  v.maxValue(1, "a number above 0, up to 1"),
);

export const yesOrNo = v.boolean("true or false");

const message = "one whole number, or two in a list";

/** One number for both of two things, or one for each. */
export const oneOrTwo = v.union([whole, v.strictTuple([whole, whole], message)], message);

const listOf = (length: number) =>
  v.custom<unknown[]>((x) => Array.isArray(x) && x.length === length, `a list of ${length} numbers`);

/** A list of exactly two, three, four or five. */
export const two = <T>(item: v.GenericSchema<unknown, T>) => v.pipe(listOf(2), v.strictTuple([item, item]));
export const three = <T>(item: v.GenericSchema<unknown, T>) => v.pipe(listOf(3), v.strictTuple([item, item, item]));
export const four = <T>(item: v.GenericSchema<unknown, T>) =>
  v.pipe(listOf(4), v.strictTuple([item, item, item, item]));
export const five = <T>(item: v.GenericSchema<unknown, T>) =>
  v.pipe(listOf(5), v.strictTuple([item, item, item, item, item]));

/** Odd size of a square kernel. */
const kernelSize = v.pipe(
  whole,
  v.check((k) => k % 2 === 1, "an odd number"),
);

/** Odd size of a square kernel, or 0. */
export const kernelSizeOrNone = v.pipe(
  v.number("an odd number, or 0"),
  v.safeInteger("an odd number, or 0"),
  v.check((k) => k === 0 || (k > 0 && k % 2 === 1), "an odd number, or 0"),
  v.maxValue(LIMITS.size, `at most ${LIMITS.size}`),
);

/** Odd sizes of square kernels; none is a list, too. */
export const kernelSizes = v.pipe(
  v.array(kernelSize, "a list of odd numbers"),
  v.maxLength(LIMITS.length, `a list of at most ${LIMITS.length} numbers`),
);

/** One for each stage, of which there is at least one. */
export const perStage = <T>(item: v.GenericSchema<unknown, T>) =>
  v.pipe(
    v.array(item, "a list with an entry for each stage"),
    v.minLength(1, "a list with an entry for each stage"),
    v.maxLength(LIMITS.length, `a list of at most ${LIMITS.length}`),
  );

/** One of a few words. */
export const oneOf = <const T extends string>(...words: T[]): v.GenericSchema<unknown, T> =>
  v.picklist(words, words.map((word) => `"${word}"`).join(" or "));

/** Whole numbers by other ones, such as groups by layers. */
export const byNumber = v.record(
  v.pipe(v.string(), v.regex(/^\d{1,6}$/, "keyed by whole numbers")),
  whole,
  "an object of whole numbers by whole numbers",
);

/** A name. */
export const word = v.pipe(v.string("a name"), v.minLength(1, "a name"), v.maxLength(LIMITS.length, "a name"));

/** Values by name, which whoever they are for checks. */
export const byName = v.record(v.string(), v.unknown(), "an object of options");

/** Whole numbers from 1, at least one. */
export const counts = v.pipe(
  v.array(whole, "a list of whole numbers from 1"),
  v.minLength(1, "a list of whole numbers from 1"),
  v.maxLength(LIMITS.length, `a list of at most ${LIMITS.length} numbers`),
);
