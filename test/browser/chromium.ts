import { existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";

/** The system's browser, or the one that CHROMIUM names. */
export const chromiumPath = [
  process.env.CHROMIUM,
  "/usr/lib/chromium/chromium",
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
  "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
].find((path) => path && existsSync(path));

/**
 * Environment in which a process without a graphics card finds one: the Vulkan loader and the software adapter that
 * Chromium brings along. What is set already stays.
 */
export function softwareAdapter(): Readonly<Record<string, string>> {
  const folder = chromiumPath && dirname(chromiumPath);
  if (!folder) return {};
  const icd = join(folder, "vk_swiftshader_icd.json");
  const loader = readdirSync(folder).includes("libvulkan.so.1");
  const { VK_ICD_FILENAMES, LD_LIBRARY_PATH } = process.env;
  return {
    ...(!VK_ICD_FILENAMES && existsSync(icd) && { VK_ICD_FILENAMES: icd }),
    ...(loader && { LD_LIBRARY_PATH: [LD_LIBRARY_PATH, folder].filter(Boolean).join(":") }),
  };
}
