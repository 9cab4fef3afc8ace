let path = "";

/** Path of the layer whose forward is being traced; empty outside. */
export const currentPath = (): string => path;

/** Runs `body` with nodes named after `layer`. */
export function inLayer<T>(layer: string, body: () => T): T {
  const outer = path;
  path = layer;
  try {
    return body();
  } finally {
    path = outer;
  }
}
