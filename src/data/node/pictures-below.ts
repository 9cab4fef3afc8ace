import { stat } from "node:fs/promises";
import { extname, join } from "node:path";
import { byCodePoint } from "../../text.ts";
import { leftOutNotes, pictureEndings } from "./class-folders.ts";
import { listEntries } from "./files.ts";

/** Pictures of a folder without classes. */
export interface PicturesBelow {
  /** Their paths below the folder, by code point. */
  readonly pictures: readonly string[];
  /** What was left out, as sentences. */
  readonly notes: readonly string[];
}

/**
 * All pictures in and below a folder, whatever its sub-folders mean: files whose ending says so. As in class folders, names
 * that begin with a dot are left out at every level, and a link that leads nowhere is a picture (which cannot be read)
 * where its ending says so. Links to folders are not followed.
 *
 * @throws `data/folder` for a folder that cannot be listed
 */
export async function picturesBelow(folder: string): Promise<PicturesBelow> {
  const pictures: string[] = [];
  const hidden: string[] = [];
  const walk = async (below: string): Promise<void> => {
    for (const entry of await listEntries(join(folder, below))) {
      const path = below ? `${below}/${entry.name}` : entry.name;
      if (entry.name.startsWith(".")) hidden.push(path);
      else if (entry.isDirectory()) await walk(path);
      else if (pictureEndings.has(extname(entry.name).toLowerCase()) && !(await isFolder(join(folder, path))))
        pictures.push(path);
    }
  };
  await walk("");
  pictures.sort(byCodePoint);
  return { pictures, notes: leftOutNotes(folder, { hidden: hidden.sort(byCodePoint), links: [], nowhere: [] }) };
}

const isFolder = (path: string): Promise<boolean> =>
  stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
