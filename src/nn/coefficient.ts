import { must } from "../errors.ts";
import { reshape, scalarInput, type Value } from "../graph/index.ts";
import { Module } from "./module.ts";

/**
 * A number of the forward pass that training may change from step to step without a new program: in a training step it is
 * an input, which the trainer feeds; anywhere else it is the number that it has at the moment. It is not part of the state
 * dict. A network has one for each name, which several layers may share.
 */
export class Coefficient extends Module {
  constructor(
    readonly name: string,
    readonly present: number,
  ) {
    super();
  }

  /** @throws `coefficient/value` unless it is finite */
  set(value: number): void {
    must(
      Number.isFinite(value),
      "coefficient/value",
      () => `coefficient ${this.name}: must be a finite number, got ${value}`,
      "usage",
    );
    (this as { present: number }).present = value;
  }

  /** For arithmetic with values of so many axes. */
  read(rank: number): Value | number {
    const fed = scalarInput(inputOf(this.name));
    return fed
      ? reshape(
          fed,
          Array.from({ length: rank }, () => 1),
        )
      : this.present;
  }
}

/** Rules of updates have scalars, too: names that cannot be theirs. */
const inputOf = (name: string): string => `coefficient.${name}`;

/** Those of a network by name. */
export const coefficientsOf = (model: Module): Map<string, Coefficient> =>
  new Map([...model.modules()].flatMap(([, m]) => (m instanceof Coefficient ? [[m.name, m] as const] : [])));

/** What a step is fed for the coefficients of a network, by the names of its scalars. */
export const coefficientScalars = (model: Module): Record<string, number> =>
  Object.fromEntries([...coefficientsOf(model)].map(([name, { present }]) => [inputOf(name), present]));
