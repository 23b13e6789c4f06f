/** A simulated guest: random requests, some side by side, that fight with the other guests for the same few clusters. */
import { type Clock, type Co, isBlockError, join, SECTOR_SIZE, type SeededRandom, sleep } from "@spindle/base";
import type { ObservedDisk } from "@spindle/testkit";
import { stampedSectors } from "./image-chain.ts";
import type { Log } from "./storage.ts";

export interface GuestOptions {
  readonly name: string;
  readonly random: SeededRandom;
  readonly disk: ObservedDisk;
  readonly clock: Clock;
  readonly requests: number;
  readonly mix: Mix;
  /** Bytes; requests gather around these offsets. */
  readonly hotSpots: readonly number[];
  readonly clusterSize: number;
  /** The number of the next write, different for every write of the history. */
  readonly nextStamp: () => number;
  readonly log: Log | undefined;
  /** Hears of every request that failed. */
  readonly failed: (error: unknown, request: string) => void;
}

type Kind = "read" | "write" | "zero" | "discard" | "flush";

/** How often each kind comes, in proportion to the others. */
export type Mix = Readonly<Record<Kind, number>>;

/** Histories differ in what their guests like most: some mistakes show only where one kind is rare, or common. */
export function drawMix(random: SeededRandom): Mix {
  const weight = (usual: number): number => usual * random.pick([0.2, 1, 1, 5]);
  return { read: weight(3), write: weight(4), zero: weight(1), discard: weight(1), flush: weight(1) };
}

/** Bytes of the longest request. */
const REQUEST_BYTES_MAX = 64 * 1024;

export class Guest {
  readonly #options: GuestOptions;

  constructor(options: GuestOptions) {
    this.#options = options;
  }

  *run(): Co<void> {
    const { random, clock, requests } = this.#options;
    for (let left = requests; left > 0; ) {
      if (random.chance(0.3)) yield* sleep(clock, random.below(200) / 20);
      const together = random.chance(0.3) ? Math.min(left, 2 + random.below(4)) : 1;
      yield* join(Array.from({ length: together }, () => this.#request()));
      left -= together;
    }
  }

  *#request(): Co<void> {
    const { random, mix, log, name, failed } = this.#options;
    const kind = pickKind(random, mix);
    const { offset, length } = this.#range();
    const fua = random.chance(0.1);
    const mayUnmap = random.chance(0.5);
    const request = kind === "flush" ? kind : `${kind} ${offset}+${length}${fua ? " fua" : ""}`;
    log?.(`  ${name}: ${request}`);
    try {
      yield* this.#perform(kind, offset, length, { fua, mayUnmap });
      log?.(`  ${name}: ${request} done`);
    } catch (error) {
      if (!isBlockError(error)) throw error;
      log?.(`  ${name}: ${request} failed: ${error.message}`);
      failed(error, `${name}: ${request}`);
    }
  }

  *#perform(
    kind: Kind,
    offset: number,
    length: number,
    flags: { readonly fua: boolean; readonly mayUnmap: boolean },
  ): Co<void> {
    const { disk, nextStamp } = this.#options;
    if (kind === "read") yield* disk.read(offset, length);
    else if (kind === "write") yield* disk.write(offset, stampedSectors(nextStamp(), offset, length), flags);
    else if (kind === "zero") yield* disk.writeZeroes(offset, length, flags);
    else if (kind === "discard") yield* disk.discard(offset, length);
    else yield* disk.flush();
  }

  /** Half of all requests are about a sector or a few near a hot spot; the others are anywhere. */
  #range(): { offset: number; length: number } {
    const { random, hotSpots, clusterSize, disk } = this.#options;
    const end = disk.model.length;
    const around = random.chance(0.6)
      ? random.pick(hotSpots) - clusterSize + random.below(2 * clusterSize)
      : random.below(end);
    const start = Math.min(Math.max(0, around), end - SECTOR_SIZE);
    let offset = start - (start % SECTOR_SIZE);
    if (random.chance(0.3)) offset -= offset % clusterSize;
    const longest = Math.min(end - offset, REQUEST_BYTES_MAX, random.pick([1, 3, 3, 8]) * Math.max(clusterSize, 2048));
    const length = random.chance(0.3)
      ? Math.min(clusterSize, longest)
      : SECTOR_SIZE * (1 + random.below(longest / SECTOR_SIZE));
    return { offset, length: Math.max(SECTOR_SIZE, length - (length % SECTOR_SIZE)) };
  }
}

function pickKind(random: SeededRandom, mix: Mix): Kind {
  const kinds = Object.keys(mix) as Kind[];
  const sum = kinds.reduce((total, kind) => total + mix[kind], 0);
  let rest = (random.u32() / 2 ** 32) * sum;
  for (const kind of kinds) {
    rest -= mix[kind];
    if (rest < 0) return kind;
  }
  return "flush";
}
