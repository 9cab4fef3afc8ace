// Prints the failed tests of a vitest JSON report, each with the first lines of its error; with --skipped the names of
// those that were left out.
import { existsSync, readFileSync } from "node:fs";
import { relative } from "node:path";

const [file, mode] = process.argv.slice(2);
if (file && existsSync(file)) {
  for (const { name, message, status, assertionResults } of JSON.parse(readFileSync(file, "utf8")).testResults) {
    const where = relative(process.cwd(), name);
    const of = (...wanted) => assertionResults.filter((test) => wanted.includes(test.status));
    if (mode === "--skipped") {
      for (const test of of("pending", "skipped", "todo", "disabled")) console.log(`${where} > ${test.fullName}`);
      continue;
    }
    if (status === "failed" && of("failed").length === 0) console.log(`failed: ${where}: ${firstLines(message)}`);
    for (const test of of("failed"))
      console.log(`failed: ${where} > ${test.fullName}: ${firstLines(test.failureMessages[0])}`);
  }
}

function firstLines(text = "") {
  return text.split("\n").slice(0, 3).join(" | ").slice(0, 400);
}
