/** Passes every request on to another driver: the base of the drivers that interfere with some of them. */
import type { Co } from "@spindle/base";
import type { BlockDriver, Extent, IoVector, WriteFlags } from "@spindle/block";

export class WrappingDriver implements BlockDriver {
  readonly name: string;
  readonly requestAlignment: number;
  readonly clusterSize: number;
  readonly growable: boolean | undefined;
  readonly identity: string | undefined;
  protected readonly inner: BlockDriver;

  constructor(inner: BlockDriver) {
    this.inner = inner;
    this.name = inner.name;
    this.requestAlignment = inner.requestAlignment;
    this.clusterSize = inner.clusterSize;
    this.growable = inner.growable;
    this.identity = inner.identity;
  }

  length(): number {
    return this.inner.length();
  }

  read(offset: number, vector: IoVector): Co<void> {
    return this.inner.read(offset, vector);
  }

  write(offset: number, vector: IoVector, flags: WriteFlags): Co<void> {
    return this.inner.write(offset, vector, flags);
  }

  writeZeroes(offset: number, length: number, flags: WriteFlags): Co<void> {
    return this.inner.writeZeroes(offset, length, flags);
  }

  discard(offset: number, length: number): Co<void> {
    return this.inner.discard(offset, length);
  }

  flush(): Co<void> {
    return this.inner.flush();
  }

  blockStatus(offset: number, length: number): Co<Extent> {
    return this.inner.blockStatus(offset, length);
  }

  truncate(length: number): Co<void> {
    return this.inner.truncate(length);
  }

  close(): Co<void> {
    return this.inner.close();
  }
}
