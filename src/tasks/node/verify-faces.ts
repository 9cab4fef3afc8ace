import { join } from "node:path";
import { readClassFolders } from "../../data/node/class-folders.ts";
import { listed, must } from "../../errors.ts";
import type { FacePair } from "../pair-list.ts";
import {
  type Identified,
  type Pairs,
  rankOne,
  rocCurve,
  squaredDistance,
  type TarAtFar,
  tarAtFar,
  type VerificationAccuracy,
  verificationAccuracy,
} from "../verification.ts";

/** Embeddings of length 1 of picture files, in the order of their paths. */
export type FileEmbedder = (paths: readonly string[]) => Promise<readonly Float64Array[]>;

export interface FaceVerification extends VerificationAccuracy {
  /** Share of pairs of one person that are accepted at each false accept rate asked for. */
  readonly tarAtFar: readonly (TarAtFar & { readonly asked: number })[];
  readonly roc: ReturnType<typeof rocCurve>;
}

export interface VerifyPairsOptions {
  /** Default 10. */
  readonly folds?: number;
  /** False accept rates. Default 1e-2 and 1e-3. */
  readonly fars?: readonly number[];
}

/**
 * Verification in LFW's way of the pairs of a list; each picture is embedded once.
 *
 * @param folder  that the paths of the pairs are below
 * @throws `pairs/kinds` where all pairs are of one person, or all of two; `verification/pairs` for fewer pairs than folds
 */
export async function verifyPairs(
  embed: FileEmbedder,
  pairs: readonly FacePair[],
  folder: string,
  { folds = 10, fars = [1e-2, 1e-3] }: VerifyPairsOptions = {},
): Promise<FaceVerification> {
  const same = pairs.filter((pair) => pair.same).length;
  must(
    same > 0 && same < pairs.length,
    "pairs/kinds",
    () =>
      `verify-faces: of ${pairs.length} pairs ${same} are of one person. Both kinds are needed; look at the labels of the list.`,
    "file",
  );
  const names = [...new Set(pairs.flatMap(({ a, b }) => [a, b]))];
  const rows = await embed(names.map((name) => join(folder, name)));
  const byName = new Map(names.map((name, i) => [name, rows[i]]));
  const distances = pairs.map(({ a, b }) =>
    squaredDistance(byName.get(a) as Float64Array, byName.get(b) as Float64Array),
  );
  const judged: Pairs = { distances, same: pairs.map((pair) => pair.same) };
  return {
    ...verificationAccuracy(judged, folds),
    tarAtFar: fars.map((asked) => ({ asked, ...tarAtFar(judged, asked, folds) })),
    roc: rocCurve(judged, folds),
  };
}

/** Pictures of people for identification. */
export interface FaceGallery {
  readonly people: number;
  readonly gallery: { readonly paths: readonly string[]; readonly identities: readonly string[] };
  readonly probes: { readonly paths: readonly string[]; readonly identities: readonly string[] };
  readonly distractors: readonly string[];
}

/**
 * People in folders for identification: the first picture of each is in the gallery, the others are probes. Pictures of a
 * folder of distractors are in the gallery, too, and show nobody whom one looks for.
 *
 * @throws `faces/pictures` for a person with fewer than two pictures; what reading class folders throws
 */
export async function faceGallery(folder: string, distractors?: string): Promise<FaceGallery> {
  const { names, pictures } = await readClassFolders(folder);
  const few = names.filter((_, i) => pictures[i].length < 2);
  must(
    !few.length,
    "faces/pictures",
    () =>
      `${folder}: ${few.length} of ${names.length} people have fewer than two pictures, such as ${join(folder, few[0])} with ${pictures[names.indexOf(few[0])].length}: ${listed(few)}. One picture is for the gallery and one to be found there; take those folders out.`,
    "file",
  );
  const probes = names.flatMap((name, i) => pictures[i].slice(1).map((path) => [path, name] as const));
  const others = distractors === undefined ? [] : (await readClassFolders(distractors)).pictures.flat();
  return {
    people: names.length,
    gallery: { paths: pictures.map(([first]) => first), identities: names },
    probes: { paths: probes.map(([path]) => path), identities: probes.map(([, name]) => name) },
    distractors: others,
  };
}

export interface FaceIdentification {
  readonly people: number;
  readonly probes: number;
  readonly distractors: number;
  /** Share of probes whose nearest picture of the gallery is of their person. */
  readonly rankOne: number;
}

/** Rank-1 identification in MegaFace's way. */
export async function identifyFaces(
  embed: FileEmbedder,
  { people, gallery, probes, distractors }: FaceGallery,
): Promise<FaceIdentification> {
  const known: Identified = {
    embeddings: [...(await embed(gallery.paths)), ...(await embed(distractors))],
    // No person has such a name: it is that of no folder.
    identities: [...gallery.identities, ...distractors.map((_, i) => i)],
  };
  const found = rankOne({ embeddings: await embed(probes.paths), identities: probes.identities }, known);
  return { people, probes: probes.paths.length, distractors: distractors.length, rankOne: found };
}
