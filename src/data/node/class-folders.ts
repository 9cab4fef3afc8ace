import { realpath, stat } from "node:fs/promises";
import { dirname, extname, join, relative, sep } from "node:path";
import { listed, must } from "../../errors.ts";
import { byCodePoint } from "../../text.ts";
import { listEntries } from "./files.ts";

/** Endings of picture files, in small letters. */
export const pictureEndings: ReadonlySet<string> = new Set(
  ".jpg .jpeg .png .webp .bmp .ppm .pgm .tif .tiff".split(" "),
);

/** What lies in a folder of class folders. */
export interface ClassFolders {
  /** Names of the class folders, by code point. */
  readonly names: readonly string[];
  /** Paths of the pictures of each class. */
  readonly pictures: readonly (readonly string[])[];
  readonly left: LeftOut;
}

/** What was left out of a folder of class folders, by paths below it. */
export interface LeftOut {
  /** Names that begin with a dot; what is in such a folder is not looked at. */
  readonly hidden: readonly string[];
  /** Links to folders that hold the link, or that hold or belong to another class. */
  readonly links: readonly string[];
  /** Links that lead nowhere and are not named like pictures. */
  readonly nowhere: readonly string[];
}

const reasons: Readonly<Record<keyof LeftOut, string>> = {
  hidden: "begin with a dot",
  links: "are links to a folder that holds the link or another class",
  nowhere: "are links that lead nowhere",
};

/** What was left out of `folder`, as sentences. */
export const leftOutNotes = (folder: string, left: LeftOut): string[] =>
  (Object.keys(reasons) as (keyof LeftOut)[])
    .filter((key) => left[key].length > 0)
    .map((key) => `${folder}: left out because they ${reasons[key]}: ${left[key].length} (${listed(left[key])})`);

/** An entry of a folder that matters here. */
interface Entry {
  readonly name: string;
  readonly path: string;
  readonly kind: "folder" | "file" | "nowhere" | "other";
  readonly isLink: boolean;
}

/**
 * Looks through a folder of class folders, as torchvision's `ImageFolder` does: classes are the folders in it, pictures
 * the files in and below them whose ending says so; folders and files in the order of Python's `sorted`. Symbolic links
 * are followed. Unlike there,
 *
 * - names that begin with a dot are left out at every level;
 * - a link to a folder is not followed where that folder holds the link or another class, or belongs to another class:
 *   its pictures would get two labels, or come again and again;
 * - a link that leads nowhere is a picture (which cannot be read) where its ending says so, and nothing else.
 *
 * @throws `data/folder` for a folder that cannot be listed, `image-folder/no-classes`, `image-folder/link` when two class
 *   folders are the same one or one lies in the other
 */
export async function readClassFolders(folder: string): Promise<ClassFolders> {
  const left = { hidden: [] as string[], links: [] as string[], nowhere: [] as string[] };
  const nameOf = (path: string): string => relative(folder, path).split(sep).join("/");
  const visibleEntries = async (path: string): Promise<Entry[]> => {
    const { entries, dotted } = await readEntries(path);
    left.hidden.push(...dotted.map(nameOf));
    const isLost = ({ name, kind }: Entry): boolean => kind === "nowhere" && !isPicture(name);
    left.nowhere.push(...entries.filter(isLost).map((entry) => nameOf(entry.path)));
    return entries;
  };
  const entries = await visibleEntries(folder);
  const root = await realpath(folder);
  const classes: { readonly entry: Entry; readonly real: string }[] = [];
  for (const entry of entries.filter(({ kind }) => kind === "folder")) {
    const real = await realpath(entry.path);
    if (within(root, real)) left.links.push(nameOf(entry.path));
    else classes.push({ entry, real });
  }
  must(
    classes.length > 0,
    "image-folder/no-classes",
    () =>
      `${folder}: no class folders. Expected one folder per class with its pictures; found ${listed(entries.map(({ name }) => name)) || "nothing"}`,
    "file",
  );
  mustBeApart(folder, classes);
  const roots = new Set(classes.map(({ real }) => real));
  const above = new Set([...roots, root].flatMap(withAncestors));
  const pictures = await Promise.all(
    classes.map(async ({ entry, real: own }) => {
      const found: { readonly folder: string; readonly files: readonly string[] }[] = [];
      const walk = async (path: string, real: string, chain: readonly string[]): Promise<void> => {
        const entries = await visibleEntries(path);
        const files = entries.filter(({ name, kind }) => (kind === "file" || kind === "nowhere") && isPicture(name));
        found.push({ folder: path, files: files.map((file) => file.path) });
        const inside = [...chain, real];
        await Promise.all(
          entries
            .filter(({ kind }) => kind === "folder")
            .map(async (below) => {
              if (!below.isLink) return walk(below.path, join(real, below.name), inside);
              const place = await realpath(below.path);
              const turns = above.has(place) || inside.some((outer) => within(outer, place));
              const isOthers = withAncestors(place).some((outer) => outer !== own && roots.has(outer));
              if (turns || isOthers) left.links.push(nameOf(below.path));
              else await walk(below.path, place, inside);
            }),
        );
      };
      await walk(entry.path, own, []);
      return found.sort((a, b) => byCodePoint(a.folder, b.folder)).flatMap(({ files }) => files);
    }),
  );
  for (const names of Object.values(left)) names.sort(byCodePoint);
  return { names: classes.map(({ entry }) => entry.name), pictures, left };
}

const isPicture = (name: string): boolean => pictureEndings.has(extname(name).toLowerCase());

/** Whether `path` is `folder` or lies in it; both without links. */
const within = (path: string, folder: string): boolean => withAncestors(path).includes(folder);

function withAncestors(path: string): string[] {
  const up = dirname(path);
  return up === path ? [path] : [path, ...withAncestors(up)];
}

function mustBeApart(folder: string, classes: readonly { readonly entry: Entry; readonly real: string }[]): void {
  const byPlace = new Map<string, string>();
  for (const { entry, real } of classes) {
    const other = byPlace.get(real);
    must(other === undefined, "image-folder/link", () => twice(folder, entry.name, other!), "file");
    byPlace.set(real, entry.name);
  }
  for (const { entry, real } of classes) {
    const outer = withAncestors(dirname(real)).find((path) => byPlace.has(path));
    must(outer === undefined, "image-folder/link", () => twice(folder, entry.name, byPlace.get(outer!)!), "file");
  }
}

const twice = (folder: string, name: string, other: string): string =>
  `${folder}: the class folders ${listed([other, name])} lead to the same pictures, which would get two labels. Remove the link that is no class`;

/** Entries without hidden ones, by code point, and the paths of the hidden ones. */
async function readEntries(folder: string): Promise<{ entries: Entry[]; dotted: string[] }> {
  const all = await listEntries(folder);
  const dotted = all.filter(({ name }) => name.startsWith("."));
  const entries = await Promise.all(
    all
      .filter(({ name }) => !name.startsWith("."))
      .map(async (found): Promise<Entry> => {
        const path = join(folder, found.name);
        const isLink = found.isSymbolicLink();
        // A link may lead nowhere, round in a circle, or where one may not look.
        const target = isLink ? await stat(path).catch(() => undefined) : found;
        const kind = !target ? "nowhere" : target.isDirectory() ? "folder" : target.isFile() ? "file" : "other";
        return { name: found.name, path, kind, isLink };
      }),
  );
  return { entries, dotted: dotted.map(({ name }) => join(folder, name)) };
}
