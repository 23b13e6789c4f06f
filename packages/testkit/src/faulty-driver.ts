/**
 * Storage that fails on purpose: below a format, to see what the format makes of it. "Fail request N, for N from 1 until
 * none fails any more" walks through every place where an error can come.
 */
import { BlockError, type Co, type ErrnoName, SECTOR_SIZE } from "@spindle/base";
import type { Extent, IoVector, WriteFlags } from "@spindle/block";
import { WrappingDriver } from "./wrapping-driver.ts";

export type StorageOperation = "read" | "write" | "writeZeroes" | "discard" | "flush" | "blockStatus" | "truncate";

export interface Fault {
  /** The kinds of request that it meets; all when absent. */
  readonly operations?: readonly StorageOperation[];
  /** Only requests that touch these bytes; flushes touch none. */
  readonly range?: { readonly offset: number; readonly length: number };
  /** Which of the requests that it meets is the first to fail, from 1. */
  readonly nth?: number;
  /** All later ones fail too. */
  readonly sticky?: boolean;
  readonly code?: ErrnoName;
  /** What has reached the storage when a write fails: nothing, the first half of its sectors, or everything. */
  readonly reached?: "nothing" | "half" | "all";
}

interface ArmedFault {
  readonly fault: Fault;
  met: number;
}

export class FaultyDriver extends WrappingDriver {
  readonly #faults: Set<ArmedFault> = new Set();
  #requests = 0;
  #failures = 0;

  /** Requests so far, failed ones included: the bound of a walk through all of them. */
  get requests(): number {
    return this.#requests;
  }

  /** Requests that have failed. */
  get failures(): number {
    return this.#failures;
  }

  /** Arms a fault. It counts from now on. @returns what disarms it. */
  fail(fault: Fault): () => void {
    const armed: ArmedFault = { fault, met: 0 };
    this.#faults.add(armed);
    return () => void this.#faults.delete(armed);
  }

  override *read(offset: number, vector: IoVector): Co<void> {
    this.#meet("read", offset, vector.length);
    yield* this.inner.read(offset, vector);
  }

  override *write(offset: number, vector: IoVector, flags: WriteFlags): Co<void> {
    const failure = this.#find("write", offset, vector.length);
    if (failure === undefined) return yield* this.inner.write(offset, vector, flags);
    const reached = bytesReached(failure.fault, vector.length);
    if (reached > 0) yield* this.inner.write(offset, vector.slice(0, reached), flags);
    throw failure.error;
  }

  override *writeZeroes(offset: number, length: number, flags: WriteFlags): Co<void> {
    const failure = this.#find("writeZeroes", offset, length);
    if (failure === undefined) return yield* this.inner.writeZeroes(offset, length, flags);
    const reached = bytesReached(failure.fault, length);
    if (reached > 0) yield* this.inner.writeZeroes(offset, reached, flags);
    throw failure.error;
  }

  override *discard(offset: number, length: number): Co<void> {
    this.#meet("discard", offset, length);
    yield* this.inner.discard(offset, length);
  }

  override *flush(): Co<void> {
    this.#meet("flush", 0, 0);
    yield* this.inner.flush();
  }

  override *blockStatus(offset: number, length: number): Co<Extent> {
    this.#meet("blockStatus", offset, length);
    return yield* this.inner.blockStatus(offset, length);
  }

  override *truncate(length: number): Co<void> {
    this.#meet("truncate", Math.min(length, this.length()), Math.abs(length - this.length()));
    yield* this.inner.truncate(length);
  }

  #meet(operation: StorageOperation, offset: number, length: number): void {
    const failure = this.#find(operation, offset, length);
    if (failure !== undefined) throw failure.error;
  }

  #find(operation: StorageOperation, offset: number, length: number): { fault: Fault; error: BlockError } | undefined {
    this.#requests += 1;
    let found: Fault | undefined;
    for (const armed of this.#faults) {
      const { fault } = armed;
      if (fault.operations?.includes(operation) === false || !touches(fault, offset, length)) continue;
      armed.met += 1;
      const nth = fault.nth ?? 1;
      if (armed.met === nth || (armed.met > nth && fault.sticky === true)) found ??= fault;
    }
    if (found === undefined) return undefined;
    this.#failures += 1;
    const code = found.code ?? "EIO";
    const message = `injected ${code}: ${operation} of ${length} bytes at ${offset}`;
    return { fault: found, error: new BlockError(code, message, { operation, offset, length }) };
  }
}

function touches({ range }: Fault, offset: number, length: number): boolean {
  return range === undefined || (offset < range.offset + range.length && range.offset < offset + length);
}

function bytesReached({ reached }: Fault, length: number): number {
  if (reached === "all") return length;
  return reached === "half" ? Math.floor(length / SECTOR_SIZE / 2) * SECTOR_SIZE : 0;
}
