import * as zlib from "node:zlib";
import { isBlockError, SeededRandom } from "@spindle/base";
import { randomBytes } from "@spindle/testkit";
import { peer } from "@spindle/testkit/peers";
import { describe, expect, it } from "vitest";
import { nodeCodecs, portableCodecs } from "../src/index.ts";
import { koffiLibrary } from "../src/koffi-library.ts";
import { zstdLibrary } from "../src/zstd-library.ts";

const CLUSTER = 64 * 1024;

/** Text-like, so that it can be compressed, with some that cannot. */
function content(seed: number, length = CLUSTER): Uint8Array {
  const random = new SeededRandom(seed);
  const bytes = new Uint8Array(length);
  for (let index = 0; index < length; index++) bytes[index] = 97 + random.below(4);
  bytes.set(randomBytes(random, Math.min(1000, length)), 0);
  return bytes;
}

/** What a call ends in: `right`, `EIO`, or whatever else it threw. */
function outcome(call: (output: Uint8Array) => void, expected: Uint8Array): string {
  const output = new Uint8Array(expected.length);
  try {
    call(output);
  } catch (error) {
    return isBlockError(error) && error.context.corrupt === true ? error.code : String(error);
  }
  return Buffer.compare(output, expected) === 0 ? "right" : "wrong";
}

describe("deflate", () => {
  const inflate = nodeCodecs.inflateRaw;

  it("inflates, whatever follows the stream's end", () => {
    const bytes = content(1);
    const packed = zlib.deflateRawSync(bytes, { windowBits: 12 });
    expect(outcome((output) => inflate(packed, output), bytes)).toBe("right");
    for (const junk of [new Uint8Array(1), new Uint8Array(511), randomBytes(new SeededRandom(2), 512)])
      expect(outcome((output) => inflate(Buffer.concat([packed, junk]), output), bytes)).toBe("right");
  });

  it("refuses what gives too little, too much, or is cut short", () => {
    const bytes = content(2);
    const packed = zlib.deflateRawSync(bytes);
    for (const length of [1, CLUSTER - 1, CLUSTER + 1])
      expect(outcome((output) => inflate(packed, output), new Uint8Array(length))).toBe("EIO");
    for (const length of [0, 1, 100, packed.length - 1])
      expect(outcome((output) => inflate(packed.subarray(0, length), output), bytes)).toBe("EIO");
  });

  it("takes no more memory for a bomb than its output is long", () => {
    const bomb = zlib.deflateRawSync(new Uint8Array(128 * 1024 * 1024), { level: 1 });
    const before = process.memoryUsage().rss;
    expect(outcome((output) => inflate(bomb, output), new Uint8Array(CLUSTER))).toBe("EIO");
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
  });

  it("ends every mutated stream in the right bytes or in EIO", () => mutate(zlib.deflateRawSync(content(3)), inflate));
});

type CompressSync = (input: Uint8Array, options: { pledgedSrcSize: number }) => Uint8Array;
/** The types are those of the oldest Node that is supported. */
const { zstdCompressSync } = zlib as { zstdCompressSync?: CompressSync };

describe.skipIf(zstdCompressSync === undefined)("compressing with zstd", () => {
  it("gives the frames that node:zlib gives, whatever came before", () => {
    const random = new SeededRandom(9);
    const lengths = [1, 100, 512, CLUSTER, 2 * 1024 * 1024, 4096, CLUSTER];
    for (const length of lengths)
      for (const bytes of [content(length, length), randomBytes(random, length), new Uint8Array(length)]) {
        const expected = (zstdCompressSync as CompressSync)(bytes, { pledgedSrcSize: length });
        expect(Buffer.compare(nodeCodecs.compressZstd(bytes), expected), `${length} bytes`).toBe(0);
      }
  });

  it.skipIf(koffiLibrary() === null)("calls Node's own library, which this Node lets be called", () => {
    expect(zstdLibrary()).not.toBeNull();
  });
});

const zstd = peer("zstd");

describe.skipIf(zstd === undefined).each([
  ["of this Node", nodeCodecs],
  ["in JavaScript", portableCodecs],
])("zstd %s", (_name, codecs) => {
  const pack = async (bytes: Uint8Array, ...options: string[]): Promise<Uint8Array> => {
    const { execFileSync } = await import("node:child_process");
    return execFileSync(zstd as string, ["-q", "-c", ...options], { input: bytes, maxBuffer: 2 ** 30 });
  };

  it("decompresses frames of all shapes", async () => {
    const bytes = content(4);
    for (const options of [["-1"], ["-19"], ["--no-check"], ["--no-content-size"], ["--ultra", "-22"]]) {
      const packed = await pack(bytes, ...options);
      expect(
        outcome((output) => codecs.decompressZstd(packed, output), bytes),
        options.join(" "),
      ).toBe("right");
    }
    const [zeros, single] = [new Uint8Array(2 * 1024 * 1024), Uint8Array.of(7)];
    for (const plain of [zeros, single, randomBytes(new SeededRandom(5), CLUSTER)]) {
      const packed = await pack(plain);
      expect(outcome((output) => codecs.decompressZstd(packed, output), plain)).toBe("right");
    }
  });

  it("refuses what gives too little, too much, or is cut short", async () => {
    const bytes = content(6);
    const packed = await pack(bytes);
    for (const length of [1, CLUSTER - 1, CLUSTER + 1])
      expect(outcome((output) => codecs.decompressZstd(packed, output), new Uint8Array(length))).toBe("EIO");
    for (const length of [0, 1, 5, 100, packed.length - 5])
      expect(outcome((output) => codecs.decompressZstd(packed.subarray(0, length), output), bytes)).toBe("EIO");
  });

  it("takes no more memory for a bomb, or for a huge window, than is reasonable", async () => {
    const bomb = await pack(new Uint8Array(128 * 1024 * 1024), "--no-content-size");
    const window = await pack(content(7), "--no-content-size", "--no-check");
    // Frame_Header_Descriptor 0: no content size, so the next byte is the window's: 2 GiB.
    const huge = Uint8Array.from(window);
    huge[5] = 21 << 3;
    const before = process.memoryUsage().rss;
    expect(outcome((output) => codecs.decompressZstd(bomb, output), new Uint8Array(CLUSTER))).toBe("EIO");
    const outcomes = outcome((output) => codecs.decompressZstd(huge, output), content(7));
    expect(["EIO", "right"]).toContain(outcomes);
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
  });

  it("ends every mutated frame in the right bytes or in EIO", async () => {
    mutate(await pack(content(8)), codecs.decompressZstd);
  });
});

function mutate(packed: Uint8Array, decompress: (input: Uint8Array, output: Uint8Array) => void): void {
  const random = new SeededRandom(packed.length);
  for (let round = 0; round < 200; round++) {
    const broken = Uint8Array.from(packed);
    const changes = 1 + random.below(4);
    for (let change = 0; change < changes; change++) {
      const range = random.chance(0.5) ? Math.min(20, broken.length) : broken.length;
      broken[random.below(range)] = random.below(256);
    }
    const result = outcome((output) => decompress(broken, output), new Uint8Array(CLUSTER));
    expect(["EIO", "wrong", "right"], `round ${round}`).toContain(result);
  }
}
