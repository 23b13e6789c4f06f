/**
 * One guest's I/O: seeded random reads, writes, zeroes, discards and flushes at a queue depth, every sector stamped
 * when written and checked when read. The same seed gives the same requests in the same order, however fast the disk
 * is: a request that would overlap one in flight waits for it instead of being replaced.
 */
import { assert, type Clock, type Co, join, SECTOR_SIZE, SeededRandom, until } from "@spindle/base";
import { describeSector, fillStamp, sectorWords } from "./sector-stamp.ts";
import type { SectorStates } from "./sector-states.ts";
import { stripeAt } from "./zones.ts";

/** The disk as the guest's driver offers it. Buffers are the guest's own memory. */
export interface GuestDisk {
  readonly length: number;
  /** The memory of one request in flight, at least {@link REQUEST_BYTES_MAX} long. */
  buffer(slot: number): Uint8Array;
  read(offset: number, buffer: Uint8Array): Co<void>;
  write(offset: number, buffer: Uint8Array): Co<void>;
  writeZeroes(offset: number, length: number): Co<void>;
  discard(offset: number, length: number): Co<void>;
  flush(): Co<void>;
}

export const REQUEST_BYTES_MAX: number = 64 * 1024;

export type GuestOperation = "read" | "write" | "write-zeroes" | "discard" | "flush";

/** What the workload tells as it goes. Called on the guest's thread. */
export interface WorkloadObserver {
  completed(operation: GuestOperation, durationMs: number): void;
  verified(sectors: number): void;
  wrong(report: string): void;
}

export interface WorkloadOptions {
  readonly guest: number;
  readonly guests: number;
  readonly seed: number;
  readonly queueDepth: number;
  readonly states: SectorStates;
  readonly clock: Clock;
  /** Fills a buffer with what the base image holds. */
  readonly readBase: (offset: number, buffer: Uint8Array) => Co<void>;
  readonly observer: WorkloadObserver;
  readonly stop: () => boolean;
}

interface GuestRequest {
  readonly operation: GuestOperation;
  readonly offset: number;
  readonly length: number;
}

/** Shares of each operation in a thousand. */
const MIX: readonly (readonly [GuestOperation, number])[] = [
  ["read", 550],
  ["write", 350],
  ["write-zeroes", 45],
  ["discard", 45],
  ["flush", 10],
];

export class GuestWorkload {
  readonly #disk: GuestDisk;
  readonly #options: WorkloadOptions;
  readonly #random: SeededRandom;
  readonly #inFlight: Set<GuestRequest> = new Set();
  #sequence = 0;
  #failure: { error: unknown } | undefined;

  constructor(disk: GuestDisk, options: WorkloadOptions) {
    assert(options.guest < options.guests, "a guest's number is below the number of guests");
    this.#disk = disk;
    this.#options = options;
    this.#random = new SeededRandom(options.seed * 1_000_003 + options.guest);
  }

  /** Runs until `stop()` holds and every request has ended. Throws the first error that the disk reports. */
  *run(): Co<void> {
    const slots = Array.from({ length: this.#options.queueDepth }, (_, slot) => slot);
    const queue: GuestRequest[] = [];
    let ended = false;
    const worker = function* (this: GuestWorkload, slot: number): Co<void> {
      for (;;) {
        yield* until(() => ended || queue.length > 0);
        const request = queue.shift();
        if (request === undefined) return;
        yield* this.#execute(request, slot);
      }
    };
    const dispatcher = function* (this: GuestWorkload): Co<void> {
      try {
        while (!this.#options.stop() && this.#failure === undefined) {
          const request = this.#generate();
          yield* until(() => this.#inFlight.size < slots.length && !this.#overlaps(request));
          this.#inFlight.add(request);
          queue.push(request);
        }
      } finally {
        ended = true;
      }
    };
    yield* join<void>([dispatcher.call(this), ...slots.map((slot) => worker.call(this, slot))]);
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  #generate(): GuestRequest {
    const random = this.#random;
    const { length } = this.#disk;
    const { guest, guests } = this.#options;
    const operation = this.#pickOperation();
    if (operation === "flush") return { operation, offset: 0, length: 0 };
    for (;;) {
      const stripe = stripeAt(random.below(length), length, guests);
      if (stripe.guest !== guest || (operation !== "read" && !stripe.written)) continue;
      const sectors = Math.floor((stripe.end - stripe.start) / SECTOR_SIZE);
      const most = operation === "read" || operation === "write" ? REQUEST_BYTES_MAX / SECTOR_SIZE : sectors;
      // Small requests are common, large ones are not: the length is even on a logarithmic scale.
      const count = Math.max(1, Math.floor(2 ** ((random.u32() / 2 ** 32) * Math.log2(Math.min(most, sectors) + 1))));
      const first = random.below(sectors - Math.min(count, sectors) + 1);
      const offset = stripe.start + first * SECTOR_SIZE;
      return { operation, offset, length: Math.min(count, sectors) * SECTOR_SIZE };
    }
  }

  #pickOperation(): GuestOperation {
    let rest = this.#random.below(1_000);
    for (const [operation, share] of MIX) {
      if (rest < share) return operation;
      rest -= share;
    }
    return "read";
  }

  #overlaps(request: GuestRequest): boolean {
    for (const other of this.#inFlight)
      if (other.offset < request.offset + request.length && request.offset < other.offset + other.length) return true;
    return false;
  }

  *#execute(request: GuestRequest, slot: number): Co<void> {
    const { clock, observer } = this.#options;
    const sequence = request.operation === "write" ? ++this.#sequence : 0;
    const buffer = this.#disk.buffer(slot).subarray(0, request.length);
    if (request.operation === "write") this.#stamp(request, buffer, sequence);
    const beginMs = clock.now();
    try {
      yield* this.#submit(request, buffer);
      observer.completed(request.operation, clock.now() - beginMs);
      this.#note(request, sequence);
      if (request.operation === "read") yield* this.#verify(request, buffer);
    } catch (error) {
      this.#failure ??= { error };
    } finally {
      this.#inFlight.delete(request);
    }
  }

  #submit({ operation, offset, length }: GuestRequest, buffer: Uint8Array): Co<void> {
    switch (operation) {
      case "read":
        return this.#disk.read(offset, buffer);
      case "write":
        return this.#disk.write(offset, buffer);
      case "write-zeroes":
        return this.#disk.writeZeroes(offset, length);
      case "discard":
        return this.#disk.discard(offset, length);
      default:
        return this.#disk.flush();
    }
  }

  #stamp({ offset, length }: GuestRequest, buffer: Uint8Array, sequence: number): void {
    const words = sectorWords(buffer);
    const first = offset / SECTOR_SIZE;
    for (let sector = 0; sector < length / SECTOR_SIZE; sector++)
      fillStamp(words, sector * (SECTOR_SIZE / 4), {
        writer: this.#options.guest,
        sequence,
        sectorIndex: first + sector,
      });
  }

  #note({ operation, offset, length }: GuestRequest, sequence: number): void {
    const { states } = this.#options;
    const end = (offset + length) / SECTOR_SIZE;
    for (let sector = offset / SECTOR_SIZE; sector < end; sector++) {
      if (operation === "write") states.noteWritten(sector, sequence);
      else if (operation === "write-zeroes") states.noteZeroed(sector);
      else if (operation === "discard") states.noteDiscarded(sector);
    }
  }

  *#verify({ offset, length }: GuestRequest, buffer: Uint8Array): Co<void> {
    const { states, guest, observer, readBase } = this.#options;
    yield* verifySectors({ offset, buffer, states, writerOf: () => guest, readBase, observer });
    assert(buffer.length === length, "a read fills its buffer");
  }
}

export interface Verification {
  readonly offset: number;
  readonly buffer: Uint8Array;
  readonly states: SectorStates;
  readonly writerOf: (sectorIndex: number) => number;
  readonly readBase: (offset: number, buffer: Uint8Array) => Co<void>;
  readonly observer: Pick<WorkloadObserver, "verified" | "wrong">;
}

/** Checks what was read at `offset` against what each sector must hold. */
export function* verifySectors(verification: Verification): Co<void> {
  const { offset, buffer, states, writerOf, readBase, observer } = verification;
  const words = sectorWords(buffer);
  const first = offset / SECTOR_SIZE;
  const count = buffer.length / SECTOR_SIZE;
  let base: Uint32Array | undefined;
  for (let sector = 0; sector < count && base === undefined; sector++) {
    if (!states.isUntouched(first + sector)) continue;
    const bytes = new Uint8Array(buffer.length);
    yield* readBase(offset, bytes);
    base = sectorWords(bytes);
  }
  const isBase = (found: Uint32Array, at: number): boolean => base !== undefined && sameSector(found, base, at);
  for (let sector = 0; sector < count; sector++) {
    const at = sector * (SECTOR_SIZE / 4);
    const writer = writerOf(first + sector);
    if (states.holds(words, at, first + sector, writer, isBase)) continue;
    const expected = states.describe(first + sector, writer);
    observer.wrong(`sector ${first + sector}: expected ${expected}, found ${describeSector(words, at)}`);
  }
  observer.verified(count);
}

function sameSector(left: Uint32Array, right: Uint32Array, at: number): boolean {
  for (let word = at; word < at + SECTOR_SIZE / 4; word++) if (left[word] !== right[word]) return false;
  return true;
}
