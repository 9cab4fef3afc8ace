/**
 * Labels of which some are the same, and some must stay as they are, with the reason. A label that stays does not pass its
 * reason on to others by way of what it meets: only labels that are free are joined.
 */
export class Labels {
  private readonly parents: number[] = [];
  private readonly reasons = new Map<number, string>();
  private readonly shared = new Map<string, number>();

  /** A label of its own. */
  fresh(): number {
    this.parents.push(this.parents.length);
    return this.parents.length - 1;
  }

  /** The label of everything that stays for this reason. */
  fixed(reason: string): number {
    const known = this.shared.get(reason);
    if (known !== undefined) return known;
    const made = this.fresh();
    this.reasons.set(made, reason);
    this.shared.set(reason, made);
    return made;
  }

  find(label: number): number {
    let root = label;
    while (this.parents[root] !== root) root = this.parents[root];
    for (let at = label; at !== root; ) {
      const next = this.parents[at];
      this.parents[at] = root;
      at = next;
    }
    return root;
  }

  /** Why a label must stay; `undefined` for one that is free. */
  reason(label: number): string | undefined {
    return this.reasons.get(this.find(label));
  }

  fix(label: number, reason: string): void {
    const root = this.find(label);
    if (!this.reasons.has(root)) this.reasons.set(root, reason);
  }

  /** What is done to one is done to the other. */
  join(a: number, b: number): void {
    const [ra, rb] = [this.find(a), this.find(b)];
    if (ra === rb) return;
    const [whyA, whyB] = [this.reasons.get(ra), this.reasons.get(rb)];
    if (whyA === undefined && whyB === undefined) this.parents[rb] = ra;
    else if (whyA === undefined) this.reasons.set(ra, whyB!);
    else if (whyB === undefined) this.reasons.set(rb, whyA);
  }
}
