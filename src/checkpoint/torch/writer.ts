import { payloads, type SaveTask } from "../save-task.ts";
import { CollectingSink } from "../sink.ts";
import { ZipWriter } from "../zip/writer.ts";
import { pickleStateDict } from "./pickle-writer.ts";

/** Writes a state dict as `torch.save` does since 1.6; the archive's inner name is `archive`, as for a buffer there. */
export async function writePth(task: SaveTask): Promise<void> {
  const sink = new CollectingSink(task.sink);
  const zip = new ZipWriter(sink);
  const add = (name: string, bytes: Uint8Array<ArrayBuffer>) =>
    zip.add(`archive/${name}`, { length: bytes.length, pieces: () => [bytes] });
  await add("data.pkl", pickleStateDict(task.entries, task));
  await add("byteorder", new TextEncoder().encode("little"));
  let storage = 0;
  for await (const payload of payloads(task, task.entries)) await zip.add(`archive/data/${storage++}`, payload);
  await add("version", new TextEncoder().encode("3\n"));
  await zip.finish();
  await sink.flush();
}
