/**
 * Copies on the thread that calls: reads the chain below the top into a buffer of its own, and lets the top's driver
 * write what is not zero. Any driver can be filled in this way.
 */
import { BlockError, type Co, encodeError, isBlockError, transferBytes } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import type { Copier, CopierOptions, CopyOutcome } from "./copier.ts";
import { zeroRuns } from "./zero-runs.ts";

/** Copies side by side, as far as memory allows. */
const DEPTH_DEFAULT = 16;
const BUFFER_BYTES_MAX = 8 * 1024 * 1024;

export class LocalCopier implements Copier {
  readonly capacity: number;
  readonly #top: BlockNode;
  readonly #storesZeros: boolean;
  readonly #bufferBytes: number;
  /** Buffers not in use; there are never more than copies were once in flight. */
  readonly #buffers: Uint8Array[] = [];
  readonly #reason: string | undefined;
  #copies = 0;

  /** @param reason why no threads are used, for people */
  constructor(options: CopierOptions, reason?: string) {
    this.#reason = reason;
    this.#top = options.top;
    this.#storesZeros = options.zeroClusters === "store";
    this.#bufferBytes = Math.max(options.chunk, options.top.trackingUnit);
    const fitting = Math.max(1, Math.floor(BUFFER_BYTES_MAX / this.#bufferBytes));
    this.capacity = Math.min(options.depth ?? DEPTH_DEFAULT, fitting);
  }

  /** Copies that have ended well. */
  get copies(): number {
    return this.#copies;
  }

  *copy(offset: number, length: number): Co<CopyOutcome> {
    const buffer = this.#takeBuffer(length);
    try {
      yield* attributed("read", readBelow(this.#top, offset, buffer.subarray(0, length)));
      return yield* attributed("write", this.#write(offset, buffer.subarray(0, length)));
    } finally {
      this.#buffers.push(buffer);
    }
  }

  *close(): Co<void> {
    this.#buffers.length = 0;
  }

  statistics(): Readonly<Record<string, number | string>> {
    const reason = this.#reason === undefined ? {} : { "local-because": this.#reason };
    return { copier: "local", ...reason, copies: this.#copies, capacity: this.capacity };
  }

  *#write(offset: number, bytes: Uint8Array): Co<CopyOutcome> {
    const { driver } = this.#top;
    let dataBytes = 0;
    for (const { start, end, zero } of zeroRuns(bytes, driver.clusterSize)) {
      if (!zero) {
        yield* driver.write(offset + start, IoVector.of(bytes.subarray(start, end)), {});
        dataBytes += end - start;
      } else if (this.#storesZeros) yield* driver.writeZeroes(offset + start, end - start, {});
    }
    this.#copies += 1;
    return { dataBytes, zeroBytes: bytes.length - dataBytes };
  }

  #takeBuffer(length: number): Uint8Array {
    const spare = this.#buffers.pop();
    return spare !== undefined && spare.length >= length ? spare : transferBytes(Math.max(length, this.#bufferBytes));
  }
}

/** Reads what shows through below `top`; behind the end of a shorter chain there are zeros. */
function* readBelow(top: BlockNode, offset: number, into: Uint8Array): Co<void> {
  const below = top.children.backing;
  const present = below === null ? 0 : Math.max(0, Math.min(into.length, below.length - offset));
  if (below !== null && present > 0) yield* below.read(offset, IoVector.of(into.subarray(0, present)));
  into.fill(0, present);
}

/** Runs one half of a copy so that its errors tell which half it was. */
export function* attributed<T>(operation: "read" | "write", half: Co<T>): Co<T> {
  try {
    return yield* half;
  } catch (error) {
    if (!isBlockError(error)) throw error;
    const { code, message, context } = encodeError(error);
    throw new BlockError(code, message, { ...context, operation }, error);
  }
}
