import { type Co, SECTOR_SIZE, SeededRandom, SyncRunner, sleep } from "@spindle/base";
import { describe, expect, it } from "vitest";
import {
  fillStamp,
  type GuestDisk,
  GuestWorkload,
  ownerOf,
  SectorStates,
  sectorWords,
  verifySectors,
} from "../src/index.ts";

const LENGTH = 16 * 1024 * 1024;
const clock = { now: () => performance.now() };

/** A disk in memory whose requests take their effect after a random number of turns, as a real one's do. */
class MemoryGuestDisk implements GuestDisk {
  readonly length = LENGTH;
  readonly bytes = new Uint8Array(LENGTH);
  readonly log: string[] = [];
  readonly #buffers = new Map<number, Uint8Array>();
  readonly #random = new SeededRandom(99);
  /** What goes wrong: the write of this number is lost. */
  lostWrite = -1;
  #writes = 0;

  buffer(slot: number): Uint8Array {
    const buffer = this.#buffers.get(slot) ?? new Uint8Array(65_536);
    this.#buffers.set(slot, buffer);
    return buffer;
  }
  *read(offset: number, buffer: Uint8Array): Co<void> {
    this.log.push(`read ${offset} ${buffer.length}`);
    yield* this.#wait();
    buffer.set(this.bytes.subarray(offset, offset + buffer.length));
  }
  *write(offset: number, buffer: Uint8Array): Co<void> {
    this.log.push(`write ${offset} ${buffer.length}`);
    yield* this.#wait();
    if (this.#writes++ !== this.lostWrite) this.bytes.set(buffer, offset);
  }
  *writeZeroes(offset: number, length: number): Co<void> {
    this.log.push(`zero ${offset} ${length}`);
    yield* this.#wait();
    this.bytes.fill(0, offset, offset + length);
  }
  *discard(offset: number, length: number): Co<void> {
    this.log.push(`discard ${offset} ${length}`);
    yield* this.#wait();
    if (this.#random.chance(0.5)) this.bytes.fill(0, offset, offset + length);
  }
  *flush(): Co<void> {
    this.log.push("flush");
    yield* this.#wait();
  }
  *#wait(): Co<void> {
    if (this.#random.chance(0.3)) yield* sleep(clock, 0.02);
  }
}

interface Run {
  readonly disk: MemoryGuestDisk;
  readonly wrong: string[];
  readonly verified: number;
}

function runGuest(options: { seed: number; requests: number; lostWrite?: number }): Run {
  const disk = new MemoryGuestDisk();
  disk.lostWrite = options.lostWrite ?? -1;
  const states = new SectorStates(SectorStates.allocate(LENGTH / SECTOR_SIZE));
  const wrong: string[] = [];
  let verified = 0;
  let completed = 0;
  const observer = {
    completed: () => void completed++,
    verified(sectors: number) {
      verified += sectors;
    },
    wrong: (report: string) => void wrong.push(report),
  };
  const readBase = function* (_offset: number, buffer: Uint8Array): Co<void> {
    buffer.fill(0);
  };
  const stop = () => completed >= options.requests;
  const common = { guest: 0, guests: 1, seed: options.seed, queueDepth: 16, states, clock, readBase, observer, stop };
  const runner = new SyncRunner(clock);
  runner.run(new GuestWorkload(disk, common).run());
  const check = { offset: 0, buffer: disk.bytes, states, writerOf: () => 0, readBase, observer };
  runner.run(verifySectors(check));
  return { disk, wrong, verified };
}

describe("a guest's workload", () => {
  it("finds nothing wrong with a disk that keeps what it was given", () => {
    const run = runGuest({ seed: 1, requests: 4_000 });
    expect(run.wrong).toEqual([]);
    expect(run.verified).toBeGreaterThan(LENGTH / SECTOR_SIZE);
  });

  it("finds a single write that was lost", () => {
    expect(runGuest({ seed: 1, requests: 4_000, lostWrite: 500 }).wrong.length).toBeGreaterThan(0);
  });

  it("does the same requests in the same order for the same seed, and others for another", () => {
    const first = runGuest({ seed: 5, requests: 500 }).disk.log;
    const again = runGuest({ seed: 5, requests: 500 }).disk.log;
    const other = runGuest({ seed: 6, requests: 500 }).disk.log;
    const shared = Math.min(first.length, again.length);
    expect(first.slice(0, shared)).toEqual(again.slice(0, shared));
    expect(first.slice(0, 100)).not.toEqual(other.slice(0, 100));
  });

  it("stops with the error that the disk reports", () => {
    const disk = new MemoryGuestDisk();
    disk.flush = function* () {
      throw new Error("flush failed");
    };
    const states = new SectorStates(SectorStates.allocate(LENGTH / SECTOR_SIZE));
    const observer = { completed() {}, verified() {}, wrong() {} };
    const workload = new GuestWorkload(disk, {
      guest: 0,
      guests: 1,
      seed: 1,
      queueDepth: 4,
      states,
      clock,
      readBase: function* (_offset, buffer) {
        buffer.fill(0);
      },
      observer,
      stop: () => false,
    });
    expect(() => new SyncRunner(clock).run(workload.run())).toThrow("flush failed");
  });
});

describe("verification", () => {
  const states = () => new SectorStates(SectorStates.allocate(8));
  const check = (state: SectorStates, bytes: Uint8Array): string[] => {
    const wrong: string[] = [];
    const observer = { verified() {}, wrong: (report: string) => void wrong.push(report) };
    const readBase = function* (_offset: number, buffer: Uint8Array): Co<void> {
      buffer.fill(0xba);
    };
    new SyncRunner(clock).run(
      verifySectors({ offset: 0, buffer: bytes, states: state, writerOf: () => 3, readBase, observer }),
    );
    return wrong;
  };
  const stamped = (sequence: number): Uint8Array => {
    const bytes = new Uint8Array(SECTOR_SIZE);
    fillStamp(sectorWords(bytes), 0, { writer: 3, sequence, sectorIndex: 0 });
    return bytes;
  };

  it("names an older stamp, a mixed sector and another's content", () => {
    const state = states();
    state.noteWritten(0, 7);
    expect(check(state, stamped(7))).toEqual([]);
    expect(check(state, stamped(6))[0]).toContain("found guest 3, write 6");
    const mixed = stamped(7);
    mixed.set(stamped(6).subarray(256), 256);
    expect(check(state, mixed)[0]).toContain("mixed with something else");
    expect(check(state, new Uint8Array(SECTOR_SIZE))[0]).toContain("found zeros");
  });

  it("lets a discarded sector hold zeros or what it held, and nothing else", () => {
    const state = states();
    state.noteWritten(0, 2);
    state.noteDiscarded(0);
    expect(check(state, new Uint8Array(SECTOR_SIZE))).toEqual([]);
    expect(check(state, stamped(2))).toEqual([]);
    expect(check(state, stamped(1)).length).toBe(1);
  });

  it("compares untouched sectors with the base", () => {
    expect(check(states(), new Uint8Array(SECTOR_SIZE).fill(0xba))).toEqual([]);
    expect(check(states(), new Uint8Array(SECTOR_SIZE)).length).toBe(1);
  });
});

describe("zones", () => {
  it("give every sector one owner and every guest some sectors", () => {
    const owners = new Set(Array.from({ length: LENGTH / SECTOR_SIZE }, (_, sector) => ownerOf(sector, LENGTH, 4)));
    expect([...owners].sort()).toEqual([0, 1, 2, 3]);
  });
});
