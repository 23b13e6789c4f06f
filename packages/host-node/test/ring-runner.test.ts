/** The ring against what the file holds: many transfers at once, in all shapes of memory, and what the kernel refuses. */
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Co, join as joinAll, SeededRandom, sleep, type Waiter } from "@spindle/base";
import { IoVector } from "@spindle/block";
import { randomBytes } from "@spindle/testkit";
import { afterAll, describe, expect, it } from "vitest";
import { cachedDescriptorIo, descriptorIo, IoRing, RingRunner, sharingCalls } from "../src/index.ts";
import { koffiLibrary } from "../src/koffi-library.ts";

const ENTRIES = 8;
const FILE_BYTES = 1_000_000;
const PAGE = 4096;

const ring = koffiLibrary() === null ? null : IoRing.open(ENTRIES);
const folder = fs.mkdtempSync(join(tmpdir(), "spindle-ring-"));
afterAll(() => {
  ring?.close();
  fs.rmSync(folder, { recursive: true, force: true });
});

class RingOnlyWaiter implements Waiter {
  readonly #ring: IoRing;
  constructor(ring: IoRing) {
    this.#ring = ring;
  }
  snapshot(): number {
    return 0;
  }
  wait(_seen: number, timeoutMs?: number): void {
    this.#ring.submitAndWait(timeoutMs);
    this.#ring.submit();
  }
  waitAsync(): undefined {
    return undefined;
  }
}

function mapped(length: number): Uint8Array {
  return new Uint8Array(sharingCalls().view(sharingCalls().allocate(length), length));
}

describe.skipIf(ring === null)("a runner with a ring", () => {
  const runner = new RingRunner(performance, new RingOnlyWaiter(ring as IoRing), ring as IoRing);
  const random = new SeededRandom(1);

  function freshFile(content: Uint8Array, flags: string | number = "r+"): number {
    const path = join(folder, `file-${random.u32()}`);
    fs.writeFileSync(path, content);
    return fs.openSync(path, flags);
  }

  it("has more reads under way than its ring has entries, and each finds its own bytes", () => {
    const content = randomBytes(random, FILE_BYTES);
    const fd = freshFile(content);
    const memory = mapped(100 * PAGE);
    const offsets = Array.from({ length: 100 }, () => random.below(FILE_BYTES - PAGE));
    const reads = offsets.map((offset, index) =>
      descriptorIo.read(fd, offset, IoVector.of(memory.subarray(index * PAGE, (index + 1) * PAGE))),
    );
    runner.run(joinAll(reads));
    offsets.forEach((offset, index) => {
      const found = memory.subarray(index * PAGE, (index + 1) * PAGE);
      expect(Buffer.compare(found, content.subarray(offset, offset + PAGE))).toBe(0);
    });
    expect(runner.busy).toBe(false);
    fs.closeSync(fd);
  });

  it("writes scattered memory, more pieces than one call takes, and continues what the kernel cuts short", () => {
    const fd = freshFile(new Uint8Array(0));
    const memory = mapped(4000 * 16);
    memory.set(randomBytes(random, memory.length));
    const pieces = Array.from({ length: 2000 }, (_, index) => memory.subarray(index * 32, index * 32 + 16));
    runner.run(
      joinAll([descriptorIo.write(fd, 5, new IoVector(pieces)), descriptorIo.write(fd, 40_000, new IoVector(pieces))]),
    );
    const expected = Buffer.concat(pieces);
    const found = fs.readFileSync(fd);
    expect(found.subarray(5, 5 + expected.length).equals(expected)).toBe(true);
    expect(found.subarray(40_000, 40_000 + expected.length).equals(expected)).toBe(true);
    fs.closeSync(fd);
  });

  it("reads zeros behind the end of the file", () => {
    const fd = freshFile(new Uint8Array(1000).fill(1));
    const memory = mapped(PAGE).fill(9);
    runner.run(descriptorIo.read(fd, 500, new IoVector([memory.subarray(0, 700), memory.subarray(700, 2000)])));
    expect([...new Set(memory.subarray(0, 500))]).toEqual([1]);
    expect([...new Set(memory.subarray(500, 2000))]).toEqual([0]);
    expect([...new Set(memory.subarray(2000))]).toEqual([9]);
    fs.closeSync(fd);
  });

  it("does in place what is in memory that may move", () => {
    const fd = freshFile(new Uint8Array(PAGE).fill(3));
    const small = new Uint8Array(40);
    const mixed = new IoVector([mapped(PAGE).subarray(0, 40), small]);
    runner.run(descriptorIo.read(fd, 0, mixed));
    expect([...new Set(small)]).toEqual([3]);
    fs.closeSync(fd);
  });

  it("tells errors by their names, and goes on", () => {
    const fd = freshFile(new Uint8Array(PAGE), "r");
    const memory = mapped(PAGE);
    expect(() => runner.run(descriptorIo.write(fd, 0, IoVector.of(memory)))).toThrow(
      expect.objectContaining({
        name: "BlockError",
        code: "EIO",
        message: expect.stringContaining("Bad file descriptor"),
      }),
    );
    const directory = fs.openSync(folder, "r");
    expect(() => runner.run(descriptorIo.read(directory, 0, IoVector.of(memory)))).toThrow(
      expect.objectContaining({ code: "EISDIR" }),
    );
    fs.closeSync(directory);
    runner.run(descriptorIo.read(fd, 0, IoVector.of(memory)));
    fs.closeSync(fd);
  });

  it("copies from the page cache what is there, on file systems that can tell and on those that cannot", () => {
    for (const place of [tmpdir(), "/dev/shm"].filter((one) => fs.existsSync(one))) {
      const path = join(place, `spindle-ring-${process.pid}`);
      const content = randomBytes(random, FILE_BYTES);
      fs.writeFileSync(path, content);
      const fd = fs.openSync(path, "r");
      const memory = mapped(FILE_BYTES);
      runner.run(cachedDescriptorIo.read(fd, 0, IoVector.of(memory)));
      expect(Buffer.compare(memory, content)).toBe(0);
      runner.run(cachedDescriptorIo.read(fd, FILE_BYTES - 10, IoVector.of(memory.subarray(0, 100))));
      expect(Buffer.compare(memory.subarray(0, 10), content.subarray(-10))).toBe(0);
      expect([...new Set(memory.subarray(10, 100))]).toEqual([0]);
      fs.closeSync(fd);
      fs.rmSync(path);
    }
  });

  it("sleeps no longer than a coroutine wants, and no longer than until a watched eventfd is written", () => {
    const begin = performance.now();
    runner.run(sleep(performance, 30));
    expect(performance.now() - begin).toBeGreaterThanOrEqual(29);
    const event = sharingCalls().createEvent();
    let seen = 0;
    const end = (ring as IoRing).watch(event, () => {
      seen += 1;
    });
    function* once(count: number): Co<void> {
      sharingCalls().signal(event);
      while (seen < count) yield { kind: "condition", ready: () => seen >= count };
    }
    for (let count = 1; count <= 3; count++) runner.run(once(count));
    end();
    sharingCalls().signal(event);
    runner.run(sleep(performance, 5));
    expect(seen).toBe(3);
    sharingCalls().close(event);
  });
});
