/** A conversion over random sources and targets, against the bytes that it should have copied. */
import { type Clock, type Co, KiB, SeededRandom, SyncRunner } from "@spindle/base";
import { type BlockDriver, BlockNode, type Children, type Codecs, type Environment, IoVector } from "@spindle/block";
import { MemoryDriver, randomBytes, SparseBytes } from "@spindle/testkit";
import { describe, expect, it } from "vitest";
import { JoinedSource } from "../src/convert/joined-source.ts";
import { sparseRuns } from "../src/convert/sparse-runs.ts";
import { convert } from "../src/index.ts";

const clock: Clock = { now: () => performance.now() };
const environment: Environment = { clock, random: new SeededRandom(1), codecs: {} as Codecs };

function run<T>(co: Co<T>): T {
  return new SyncRunner(clock).run(co);
}

function node(driver: BlockDriver): BlockNode {
  const children: Children = { file: null, backing: null };
  return new BlockNode({ name: "disk", driver, children, readOnly: false, tracker: null });
}

function diskOf(bytes: Uint8Array): BlockNode {
  const content = new SparseBytes();
  content.truncate(bytes.length);
  content.write(0, bytes);
  return node(new MemoryDriver(content));
}

/** Data and zeros in runs of all lengths. */
function mixed(random: SeededRandom, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const run = Math.min(length - at, 1 + random.below(random.chance(0.2) ? 300_000 : 9_000));
    if (random.chance(0.5)) bytes.set(randomBytes(random, run), at);
    at += run;
  }
  return bytes;
}

const PLAIN = {
  targetIsZero: true,
  sparseBytes: 4096,
  inOrder: true,
  depth: 8,
  speed: 0,
  flags: {},
};

describe("a conversion", () => {
  it.each(Array.from({ length: 12 }, (_, seed) => seed))(
    "copies what its sources show, one behind the other (%i)",
    (seed) => {
      const random = new SeededRandom(seed);
      const parts = Array.from({ length: 1 + random.below(3) }, () => mixed(random, 1 + random.below(3_000_000)));
      const expected = Buffer.concat(
        parts.map((part) => Buffer.concat([part, Buffer.alloc((512 - (part.length % 512)) % 512)])),
      );
      const target = diskOf(new Uint8Array(expected.length).fill(seed % 2 === 0 ? 0 : 0xee));
      let done = 0;
      const progress = (now: number): void => {
        expect(now).toBeGreaterThan(done);
        done = now;
      };
      const variant = {
        targetIsZero: seed % 2 === 0,
        inOrder: random.chance(0.5),
        depth: 1 + random.below(8),
        sparseBytes: [0, 512, 4096, 12 * KiB][seed % 4] as number,
      };
      run(convert(environment, { ...PLAIN, ...variant, sources: parts.map(diskOf), target, progress }));
      const copied = new Uint8Array(expected.length);
      run(target.read(0, IoVector.of(copied)));
      expect(Buffer.compare(copied, expected)).toBe(0);
      expect(done).toBe(expected.length);
    },
  );

  it("ends with ECANCELED when it is told to, and with EINVAL for a target that is too short", () => {
    const sources = [diskOf(new Uint8Array(9_000_000).fill(1))];
    const target = diskOf(new Uint8Array(9_000_448));
    let asked = 0;
    const canceled = (): boolean => ++asked > 2;
    expect(() => run(convert(environment, { ...PLAIN, sources, target, canceled, depth: 1 }))).toThrow(/canceled/);
    expect(() => run(convert(environment, { ...PLAIN, sources, target: diskOf(new Uint8Array(512)) }))).toThrow(
      "output file is smaller than input file",
    );
    expect(() =>
      run(convert(environment, { ...PLAIN, sources, target, createCompressor: () => expect.fail() })),
    ).toThrow("Compression not supported for this file format");
  });

  it("is as fast as it may be, and no faster", () => {
    const sources = [diskOf(new Uint8Array(8_000_000).fill(1))];
    const target = diskOf(new Uint8Array(8_000_000));
    const begin = performance.now();
    run(convert(environment, { ...PLAIN, sources, target, speed: 20_000_000 }));
    expect(performance.now() - begin).toBeGreaterThan(200);
  });
});

describe("sources one behind the other", () => {
  it("are whole sectors each", () => {
    const source = new JoinedSource(
      [diskOf(new Uint8Array(1000).fill(1)), diskOf(new Uint8Array(1).fill(2))],
      () => null,
    );
    expect(source.length).toBe(1536);
    const bytes = new Uint8Array(1536).fill(9);
    run(source.read(0, bytes));
    expect([bytes[999], bytes[1000], bytes[1023], bytes[1024], bytes[1025]]).toEqual([1, 0, 0, 2, 0]);
  });
});

describe("the runs of a piece", () => {
  const K = 4096;
  const piece = (...kinds: readonly number[]): Uint8Array => {
    const bytes = new Uint8Array(kinds.length * K);
    for (const [index, kind] of kinds.entries()) if (kind !== 0) bytes[index * K + 4095] = kind;
    return bytes;
  };
  it.each([
    [piece(0, 0), 0, K, [[0, 2, true]]],
    [
      piece(1, 0, 1),
      0,
      K,
      [
        [0, 1, false],
        [1, 2, true],
        [2, 3, false],
      ],
    ],
    [piece(1, 0, 1), 0, 3 * K, [[0, 3, false]]],
    [
      piece(0, 1, 0),
      0,
      3 * K,
      [
        [0, 1, true],
        [1, 2, false],
        [2, 3, true],
      ],
    ],
  ] as const)("leave out zeros that are long enough (%#)", (bytes, offset, shortest, expected) => {
    const runs = sparseRuns(bytes, offset, K, shortest);
    expect(runs.map(({ start, end, zero }) => [start / K, end / K, zero])).toEqual(expected);
  });
  it("look at units of the disk, wherever the piece begins", () => {
    const bytes = new Uint8Array(2 * K);
    bytes[K - 1024] = 1;
    expect(sparseRuns(bytes, 1024, K, K)).toEqual([
      { start: 0, end: K - 1024, zero: true },
      { start: K - 1024, end: 2 * K - 1024, zero: false },
      { start: 2 * K - 1024, end: 2 * K, zero: true },
    ]);
  });
});
