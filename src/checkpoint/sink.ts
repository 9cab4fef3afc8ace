/** Where a writer puts its bytes, in order. A chunk may be reused by its owner once `write` has resolved. */
export interface ByteSink {
  write(chunk: Uint8Array<ArrayBuffer>): Promise<void> | void;
  /** Replaces bytes written before, where the sink can go back. */
  patch?(chunk: Uint8Array<ArrayBuffer>, offset: number): void;
}

/** Small chunks are collected up to this, so that a thousand small tensors do not cost a thousand system calls. */
const COLLECT = 2 ** 18;
/** From here on a system call costs less than the copy. */
const LARGE = 2 ** 16;

/** After so many bytes timers and signals get a turn; copying by itself never waits for anything. */
const PAUSE = 2 ** 25;

const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

/** Counts and collects what goes to a sink; large chunks are passed on without a copy. */
export class CollectingSink implements ByteSink {
  /** Bytes taken so far. */
  length = 0;
  private readonly pending = new Uint8Array(COLLECT);
  private used = 0;
  private pausedAt = 0;

  constructor(private readonly sink: ByteSink) {}

  async write(chunk: Uint8Array<ArrayBuffer>): Promise<void> {
    this.length += chunk.length;
    if (this.length - this.pausedAt >= PAUSE) {
      this.pausedAt = this.length;
      await pause();
    }
    if (this.used + chunk.length > COLLECT) await this.flush();
    if (chunk.length >= LARGE) {
      await this.flush();
      await this.sink.write(chunk);
      return;
    }
    this.pending.set(chunk, this.used);
    this.used += chunk.length;
  }

  /** Whether {@link patch} can be used. */
  get patches(): boolean {
    return this.sink.patch !== undefined;
  }

  /** Replaces bytes of one chunk written before. */
  patch(chunk: Uint8Array<ArrayBuffer>, offset: number): void {
    // Small chunks are kept or passed on whole, so this one lies on one side.
    const inPending = offset - (this.length - this.used);
    if (inPending >= 0) this.pending.set(chunk, inPending);
    else this.sink.patch?.(chunk, offset);
  }

  async flush(): Promise<void> {
    if (this.used === 0) return;
    const chunk = this.pending.subarray(0, this.used);
    this.used = 0;
    await this.sink.write(chunk);
  }
}

/** Collects what is written into a Blob, which the browser may keep on disk. */
export class BlobSink implements ByteSink {
  private readonly parts: Blob[] = [];

  write(chunk: Uint8Array<ArrayBuffer>): void {
    this.parts.push(new Blob([chunk]));
  }

  blob(): Blob {
    return new Blob(this.parts, { type: "application/octet-stream" });
  }
}
