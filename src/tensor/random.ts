/** A seeded stream of random numbers; the same seed gives the same numbers on every machine. */
export interface Rng {
  /** Uniform in [0, 1), 32 random bits. */
  next(): number;
  /** Standard normal. */
  normal(): number;
  /** Uniform integer in [0, n). */
  below(n: number): number;
}

/** 32-bit FNV-1a of a string's UTF-8 bytes. */
export function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

/**
 * A stream for `seed` and a name (a parameter path, "shuffle", …): streams of different names are independent, so that
 * adding a layer does not change the initial weights of the others. sfc32, seeded by FNV-1a and warmed up.
 */
export function rng(seed: number, name = ""): Rng {
  let a = seed | 0;
  let b = fnv1a(name) | 0;
  let c = fnv1a(`${seed}/${name}`) | 0;
  let d = 1;
  const bits = (): number => {
    const t = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + t) | 0;
    return t >>> 0;
  };
  for (let i = 0; i < 15; i++) bits();
  let spare: number | undefined;
  const stream: Rng = {
    next: () => bits() / 2 ** 32,
    below: (n) => Math.floor((bits() / 2 ** 32) * n),
    normal: () => {
      if (spare !== undefined) {
        const value = spare;
        spare = undefined;
        return value;
      }
      const radius = Math.sqrt(-2 * Math.log(1 - stream.next()));
      const angle = 2 * Math.PI * stream.next();
      spare = radius * Math.sin(angle);
      return radius * Math.cos(angle);
    },
  };
  return stream;
}

/** The numbers 0 … n−1 in random order (Fisher–Yates). */
export function permutation(n: number, random: Rng): Uint32Array<ArrayBuffer> {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = random.below(i + 1);
    const t = order[i];
    order[i] = order[j];
    order[j] = t;
  }
  return order;
}
