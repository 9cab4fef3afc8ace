// Checks that every number between README's benchmark marks is in bench/RESULTS.md.
// Usage: node scripts/check-results.mjs [folder]
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), "..");
const [readme, results] = [join(root, "README.md"), join(root, "bench", "RESULTS.md")];
const [start, end] = ["<!-- bench:start -->", "<!-- bench:end -->"];

/** Numbers with their units, so that `1.5×` is not taken for `1.5 s`. */
const numbersIn = (text) => text.match(/\d[\d.,]*(?:\s?(?:×|%|ms\b|s\b|GB\b|MB\b))?/g) ?? [];

const offences = [];
const parts = readFileSync(readme, "utf8").split(start);
const block = parts.length === 2 ? parts[1].split(end) : [];
if (block.length !== 2) offences.push(`README.md: must have ${start} and ${end} once each. Put them back.`);
else {
  const numbers = numbersIn(block[0]);
  const known = new Set(existsSync(results) ? numbersIn(readFileSync(results, "utf8")) : []);
  for (const number of new Set(numbers))
    if (!known.has(number))
      offences.push(
        `README.md: ${number} is in the benchmark table but not in bench/RESULTS.md. Run npm run bench -- --write-results.`,
      );
  if (!offences.length) console.log(`results: ${numbers.length} numbers in README, all from bench/RESULTS.md`);
}
for (const line of offences) console.error(line);
process.exitCode = offences.length ? 1 : 0;
