/**
 * The keys of a JSON object as its text has them: those of the outermost object in order (`JSON.parse` moves numbers to
 * the front), and the first one that any object has twice (`JSON.parse` lets the later one win, which can hide one
 * thing behind another). The text must be valid JSON.
 */
export function keysOfJson(json: string): { readonly outermost: readonly string[]; readonly repeated?: string } {
  const next = /["{}]/g;
  const outermost: string[] = [];
  const open: Set<string>[] = [];
  for (let token = next.exec(json); token !== null; token = next.exec(json)) {
    if (token[0] === "{") open.push(new Set());
    else if (token[0] === "}") open.pop();
    else {
      const end = stringEnd(json, next.lastIndex);
      const raw = json.slice(token.index, end);
      next.lastIndex = end;
      if (!colonAt(json, end)) continue;
      const key = raw.includes("\\") ? (JSON.parse(raw) as string) : raw.slice(1, -1);
      const keys = open.at(-1);
      if (keys?.has(key)) return { outermost, repeated: key };
      keys?.add(key);
      if (open.length === 1) outermost.push(key);
    }
  }
  return { outermost };
}

/** Position after the quote that ends a string; a quote after an odd number of backslashes is part of it. */
function stringEnd(json: string, from: number): number {
  for (let quote = json.indexOf('"', from); ; quote = json.indexOf('"', quote + 1)) {
    let backslashes = 0;
    while (json[quote - 1 - backslashes] === "\\") backslashes++;
    if (backslashes % 2 === 0) return quote + 1;
  }
}

function colonAt(json: string, from: number): boolean {
  let at = from;
  while (/\s/.test(json[at] ?? "")) at++;
  return json[at] === ":";
}
