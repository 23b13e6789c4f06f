/** Framing: the parser assumes nothing about how a request is cut into descriptors (virtio 1.2 §2.7.4). */
import { SeededRandom } from "@spindle/base";
import { describe, expect, test } from "vitest";
import { DescriptorChain } from "../src/descriptor-chain.ts";
import { GuestMemory } from "../src/guest-memory.ts";
import { RequestParser } from "../src/request.ts";
import { pattern } from "./one-thread.ts";

const memory = new GuestMemory(GuestMemory.create(65_536));
const parser = new RequestParser(memory);

function bytes(address: number, length: number): Uint8Array {
  const views: Uint8Array[] = [];
  memory.translate(address, length, views);
  return views[0] as Uint8Array;
}

function header(type: number, sector: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(16));
  view.setUint32(0, type, true);
  view.setUint32(8, sector, true);
  return new Uint8Array(view.buffer);
}

/** Scatters readable bytes over memory in pieces of the given lengths, then as many writable bytes in pieces. */
function chainOf(readable: Uint8Array, readableCuts: number[], writableCuts: number[]): DescriptorChain {
  const chain = new DescriptorChain(64);
  chain.reset(5);
  let address = 1;
  let position = 0;
  for (const length of readableCuts) {
    bytes(address, length).set(readable.subarray(position, position + length));
    chain.append(address, length, false);
    position += length;
    address += length + 3;
  }
  for (const length of writableCuts) {
    bytes(address, length).fill(0);
    chain.append(address, length, true);
    address += length + 3;
  }
  return chain;
}

/** Cuts a length into at most `most` random pieces. */
function cut(random: SeededRandom, length: number, most: number): number[] {
  const pieces: number[] = [];
  let left = length;
  while (left > 0) {
    const piece = pieces.length === most - 1 ? left : 1 + random.below(left);
    pieces.push(piece);
    left -= piece;
  }
  return pieces;
}

test("a write is the same however it is cut", () => {
  const random = new SeededRandom(11);
  const data = pattern(1024, 2);
  const whole = new Uint8Array([...header(1, 77), ...data]);
  const cuts = [[1040], [16, 1024], Array.from({ length: 16 }, () => 1).concat(1024), [15, 2, 1023]];
  for (let round = 0; round < 200; round++) cuts.push(cut(random, 1040, 1 + random.below(20)));
  for (const readableCuts of cuts) {
    const parsed = parser.parse(chainOf(whole, readableCuts, [1]));
    if (parsed.kind !== "request") throw new Error(`${parsed.kind} for ${readableCuts.join()}`);
    const { head, type, sector, data: vector } = parsed.request;
    expect({ head, type, sector }).toEqual({ head: 5, type: 1, sector: 77 });
    expect(vector.toBytes()).toEqual(data);
  }
});

test("a read is the same however it is cut, with the status in the same buffer as data or not", () => {
  const random = new SeededRandom(12);
  const cuts = [[513], [512, 1], [1, 512], [511, 2]];
  for (let round = 0; round < 200; round++) cuts.push(cut(random, 513, 1 + random.below(20)));
  for (const writableCuts of cuts) {
    const chain = chainOf(header(0, 3), [16], writableCuts);
    const parsed = parser.parse(chain);
    if (parsed.kind !== "request") throw new Error(`${parsed.kind} for ${writableCuts.join()}`);
    expect(parsed.request.data.length).toBe(512);
    parsed.request.data.copyFrom(pattern(512, 9));
    expect(parsed.request.complete(0, 512)).toBe(513);
    const written = writableCuts.flatMap((length, index) => [
      ...bytes(chain.addresses[chain.readableCount + index] as number, length),
    ]);
    expect(written).toEqual([...pattern(512, 9), 0]);
  }
});

test("the segment of a discard is the same however it is cut", () => {
  const segment = Uint8Array.from([1, 2, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0]);
  const whole = new Uint8Array([...header(11, 0), ...segment]);
  for (const readableCuts of [[32], [16, 16], [17, 15], [16, 1, 15], Array.from({ length: 32 }, () => 1)]) {
    const parsed = parser.parse(chainOf(whole, readableCuts, [1]));
    expect(parsed.kind === "request" && parsed.request.segments).toEqual({
      count: 1,
      list: [{ sector: 0x201, sectorCount: 8, flags: 1 }],
    });
  }
});

describe("what makes no sense", () => {
  test("is answerable as long as there is a status byte", () => {
    expect(parser.parse(chainOf(header(0, 0), [15], [1])).kind).toBe("malformed");
    expect(parser.parse(chainOf(header(0, 0), [], [513])).kind).toBe("malformed");
    expect(parser.parse(chainOf(header(0, 0), [16], [])).kind).toBe("unanswerable");
    expect(parser.parse(chainOf(header(0, 0), [], [])).kind).toBe("unanswerable");
  });

  test("such as data outside of memory, is answered, and a status outside of it cannot be", () => {
    const outside = chainOf(header(1, 0), [16], []);
    outside.append(2 ** 40, 512, false);
    outside.append(100, 1, true);
    expect(parser.parse(outside).kind).toBe("malformed");
    const nowhere = chainOf(header(0, 0), [16], [512]);
    nowhere.append(Number.MAX_SAFE_INTEGER, 1, true);
    expect(parser.parse(nowhere).kind).toBe("unanswerable");
  });
});
