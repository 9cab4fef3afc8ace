import { describe, expect, test } from "vitest";
import { createModel, familyOf, underNames } from "../../src/index.ts";
import { families } from "../../src/models/registry.ts";
import { deployForm } from "../../src/reparam/index.ts";
import { type Renaming, renamings } from "./foreign-names.ts";

const stateOf = (name: string, form: "train" | "deploy") => {
  const model = createModel(name);
  return new Map((form === "train" ? model : deployForm(model)).state());
};

test.for(renamings)("keys of $arch under the names of $naming", ({ arch, naming, rename, forms }: Renaming) => {
  for (const form of forms) {
    const own = stateOf(arch, form);
    expect([...underNames(own, familyOf(arch), naming).keys()]).toEqual([...own.keys()].map(rename));
  }
});

test("every naming has a row", () => {
  const named = families.flatMap(({ name, namings }) =>
    namings.filter(({ names }) => names).map((naming) => `${name}: ${naming.name}`),
  );
  const rows = renamings.map(({ arch, naming }) => `${familyOf(arch).name}: ${naming}`);
  expect([...new Set(rows)].sort()).toEqual(named.sort());
});

describe("there and back: every variant of a family whose keys have other names too", () => {
  const several = families.filter(({ namings }) => namings.some(({ names }) => names));
  test.for(several)("$name", ({ variants, namings }) => {
    for (const name of Object.keys(variants))
      for (const { name: naming, names } of namings) {
        if (!names) continue;
        // Some know no other units than their own.
        if (name.endsWith("-DBB") || (name.endsWith("-ACB") && naming !== "acnet")) continue;
        const own = stateOf(name, "train");
        const there = underNames(own, familyOf(name), naming);
        expect(there.size).toBe(own.size);
        const keys = new Set(there.keys());
        expect([...keys].map((key) => names.toOwn(key, keys))).toEqual([...own.keys()]);
      }
  });
});

test("names that a family does not have are refused, and those that have none for a form", () => {
  const own = stateOf("RepVGG-A0", "deploy");
  expect(() => underNames(own, familyOf("RepVGG-A0"), "torchvision")).toThrow(
    'models: RepVGG has no names "torchvision" for its keys; there are repvgg, timm. Choose one of them with --names.',
  );
  for (const name of ["ResNet-18-DBB", "ResNet-50-DBB"])
    expect(() => underNames(stateOf(name, "train"), familyOf(name), "torchvision")).toThrow(
      "models: torchvision has no names for this form of ResNet, only for one with conv1.weight. Write it under the names dbb.",
    );
  expect(underNames(own, familyOf("RepVGG-A0"), "repvgg")).toBe(own);
});
