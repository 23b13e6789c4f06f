/**
 * Disk ports from end to end, on real threads and real files: guests on two threads and one on the owner's, a stream
 * under them, and the shared cache of places between them.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { type Co, SeededRandom } from "@spindle/base";
import { type BlockNode, type DescriptorIo, type DirtyBitmap, DiskPort, IoVector, PortServer } from "@spindle/block";
import { descriptorIo, linuxCalls } from "@spindle/host-node";
import { startStream } from "@spindle/jobs";
import { ThreadTable } from "@spindle/shared-memory";
import { GuestWorkload, REQUEST_BYTES_MAX } from "@spindle/workload";
import { createImage, Session } from "spindle";
import { afterAll, describe, expect, it } from "vitest";
import { DiskThreads } from "../soak/disk-threads.ts";
import { openQcow2, readFileAt, writeStampedFile, wrongSectors } from "../soak/stamped-disk.ts";

const LENGTH = 24 * 1024 * 1024;
const GUESTS = 3;
const OWNERS_GUEST = 2;
const RUN_MS = 3_000;

const folder = mkdtempSync(join(tmpdir(), "spindle-ports-"));
const base = join(folder, "base.raw");
writeStampedFile(base, LENGTH, new SeededRandom(1));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function overlay(session: Session, name: string): Promise<BlockNode> {
  const filename = join(folder, `${name}.qcow2`);
  await createImage(filename, { format: "qcow2", backing: { filename: base, format: "raw" } });
  return openQcow2(session, filename, name);
}

/** Counts the requests that reach the owner's node from now on. */
function countRequests(node: BlockNode): { count: number } {
  const seen = { count: 0 };
  const { read, write } = node;
  node.read = (...parameters) => {
    seen.count += 1;
    return read.apply(node, parameters);
  };
  node.write = (...parameters) => {
    seen.count += 1;
    return write.apply(node, parameters);
  };
  return seen;
}

describe("a disk port", () => {
  it("reads zeros where zeros keep the space of what was there", async () => {
    await using session = new Session({ workers: 0 });
    const node = await overlay(session, "zeros");
    const server = new PortServer(node, session.thread, session.runner);
    const port = new DiskPort(server.open(), new ThreadTable(session.threads).attach(), descriptorIo);
    const buffer = new Uint8Array(64 * 1024).fill(5);
    await session.run(port.write(0, IoVector.of(buffer)));
    await session.run(port.writeZeroes(0, buffer.length));
    for (let round = 0; round < 3; round++) {
      await session.run(port.read(0, IoVector.of(buffer.fill(9))));
      expect(
        buffer.every((byte) => byte === 0),
        `round ${round}`,
      ).toBe(true);
    }
    await session.run(server.close());
  });

  it.skipIf(linuxCalls() === null)(
    "reads and overwrites the holes of a plain file without asking the owner again",
    async () => {
      await using session = new Session({ workers: 0 });
      const filename = join(folder, "sparse.raw");
      writeFileSync(filename, "");
      truncateSync(filename, LENGTH);
      const node = await session.run(session.graph.openImage(filename, { format: "raw" }));
      const server = new PortServer(node, session.thread, session.runner);
      const port = new DiskPort(server.open(), new ThreadTable(session.threads).attach(), descriptorIo);
      const seen = countRequests(node);
      const buffer = new Uint8Array(4096);
      for (let offset = 0; offset < 1024 * 1024; offset += buffer.length) {
        await session.run(port.read(offset, IoVector.of(buffer.fill(9))));
        expect(buffer.every((byte) => byte === 0)).toBe(true);
        await session.run(port.write(offset, IoVector.of(buffer.fill(1 + (offset % 7)))));
        await session.run(port.read(offset, IoVector.of(buffer.fill(0))));
        expect(buffer.every((byte) => byte === 1 + (offset % 7))).toBe(true);
      }
      expect(seen.count).toBeLessThan(4);
      await session.run(port.discard(0, 64 * 1024));
      await session.run(port.read(0, IoVector.of(buffer)));
      expect(buffer.every((byte) => byte === 0)).toBe(true);
      await session.run(readFileAt(filename)(64 * 1024, buffer));
      expect(buffer.every((byte) => byte === 1 + ((64 * 1024) % 7))).toBe(true);
      await session.run(server.close());
      await session.run(session.graph.remove(node.name));
    },
  );

  it("overwrites nothing that a dirty bitmap would not see", async () => {
    await using session = new Session({ workers: 0 });
    const node = await overlay(session, "bitmaps");
    const server = new PortServer(node, session.thread, session.runner);
    const port = new DiskPort(server.open(), new ThreadTable(session.threads).attach(), descriptorIo);
    const write = async (offset: number): Promise<void> => {
      await session.run(port.write(offset, IoVector.of(new Uint8Array(4096).fill(1))));
    };
    for (const offset of [0, 8192, 65_536]) await write(offset);
    const bitmaps: DirtyBitmap[] = [];
    const addBitmap = (granularity: number): Promise<void> =>
      session.run(
        node.exclusively(function* () {
          bitmaps.push(node.bitmaps.add({ name: `of ${granularity}`, granularity, persistent: false }));
        }),
      );
    await addBitmap(65_536);
    await addBitmap(4096);
    for (const offset of [8192, 65_536, 8192]) await write(offset);
    const [coarse, fine] = bitmaps as [DirtyBitmap, DirtyBitmap];
    expect([...(await session.run(coarse.bits())).runs()]).toEqual([{ first: 0, end: 2 }]);
    expect([...(await session.run(fine.bits())).runs()]).toEqual([
      { first: 2, end: 3 },
      { first: 16, end: 17 },
    ]);
    await session.run(
      node.exclusively(function* () {
        fine.enabled = false;
        coarse.clear();
      }),
    );
    const seen = countRequests(node);
    for (let round = 0; round < 5; round++) await write(65_536 + 4096 * round);
    expect([...(await session.run(coarse.bits())).runs()]).toEqual([{ first: 1, end: 2 }]);
    expect(seen.count, "requests that the owner has heard of").toBe(1);
    await session.run(server.close());
  });

  it("has more requests under way than the owner takes at once, and mixes none up", async () => {
    await using session = new Session({ workers: 0 });
    const node = await overlay(session, "many");
    const server = new PortServer(node, session.thread, session.runner);
    const port = new DiskPort(server.open(), new ThreadTable(session.threads).attach(), descriptorIo);
    const bytes = (index: number): Uint8Array => new Uint8Array(512).fill(index + 1);
    const indices = Array.from({ length: 200 }, (_, index) => index);
    const offset = (index: number): number => index * 65_536;
    await Promise.all(indices.map((index) => session.run(port.write(offset(index), IoVector.of(bytes(index))))));
    for (const index of indices) {
      const read = new Uint8Array(512);
      await session.run(port.read(offset(index), IoVector.of(read)));
      expect(Buffer.compare(read, bytes(index)), `request ${index}`).toBe(0);
    }
    await session.run(server.close());
  });

  it("goes around the owner for what it knows, and comes back to it for what has moved", async () => {
    await using session = new Session({ workers: 0 });
    const node = await overlay(session, "known");
    const server = new PortServer(node, session.thread, session.runner);
    let direct = 0;
    const counted: DescriptorIo = {
      read: (descriptor, offset, vector) => {
        direct += 1;
        return descriptorIo.read(descriptor, offset, vector);
      },
      write: (descriptor, offset, vector) => {
        direct += 1;
        return descriptorIo.write(descriptor, offset, vector);
      },
    };
    const port = new DiskPort(server.open(), new ThreadTable(session.threads).attach(), counted);
    const forwarded = countRequests(node);
    const buffer = new Uint8Array(64 * 1024);
    const sweep = async (request: (offset: number) => Co<void>): Promise<{ direct: number; forwarded: number }> => {
      const before = { direct, forwarded: forwarded.count };
      for (let offset = 0; offset < 2 * 1024 * 1024; offset += buffer.length) await session.run(request(offset));
      return { direct: direct - before.direct, forwarded: forwarded.count - before.forwarded };
    };
    const read = (offset: number): Co<void> => port.read(offset, IoVector.of(buffer));
    const write = (offset: number): Co<void> => port.write(offset, IoVector.of(buffer.fill(7)));

    // The first read of a run fetches the places of many clusters.
    expect((await sweep(read)).forwarded).toBeLessThan(8);
    expect((await sweep(read)).forwarded).toBe(0);
    // What stands in the base cannot be written in place.
    expect((await sweep(write)).forwarded).toBe(32);
    expect(await sweep(write)).toEqual({ direct: 32, forwarded: 0 });
    expect(await sweep(read)).toEqual({ direct: 32, forwarded: 0 });
    await session.run(port.writeZeroes(65_536, 65_536, { mayUnmap: true }));
    const moved = await sweep(read);
    expect(moved).toEqual({ direct: 31, forwarded: 1 });
    await session.run(read(65_536));
    expect(buffer).toEqual(new Uint8Array(buffer.length));
    await session.run(server.close());
  });

  it("keeps every sector when two threads and the owner use the disk under a stream", async () => {
    await using session = new Session({ workers: 2 });
    const node = await overlay(session, "shared");
    const states = DiskThreads.statesFor(node);
    const threads = new DiskThreads({ session, node, base, guests: GUESTS, seed: 11, states });
    for (let guest = 0; guest < OWNERS_GUEST; guest++) await threads.startGuest(guest);
    let over = false;
    const wrong: string[] = [];
    const own = session.run(ownersGuest(node, () => over).run());
    const context = { graph: session.graph, jobs: session.jobs, createCopier: session.createCopier };
    await delay(RUN_MS / 3);
    const job = await session.run(startStream(context, { jobId: "stream", node, speed: LENGTH / 2 }));
    await session.run(job.ended());
    await delay(RUN_MS / 3);
    over = true;
    await own;
    const reports = await threads.stop();
    expect(job.failure).toBeUndefined();
    expect([...wrong, ...reports.flatMap((report) => report.wrong)]).toEqual([]);
    expect(await session.run(wrongSectors({ node, states, guests: GUESTS, base }))).toEqual([]);
    for (const { sectorsVerified, direct, requests } of reports) {
      expect(sectorsVerified).toBeGreaterThan(1_000);
      expect(direct).toBeGreaterThan(requests / 4);
    }
    expect(node.tracker?.inFlight()).toEqual([]);

    function ownersGuest(disk: BlockNode, stop: () => boolean): GuestWorkload {
      const buffers = Array.from({ length: 4 }, () => new Uint8Array(REQUEST_BYTES_MAX));
      const guestDisk = {
        length: disk.length,
        buffer: (slot: number) => buffers[slot] as Uint8Array,
        read: (offset: number, buffer: Uint8Array) => disk.read(offset, IoVector.of(buffer)),
        write: (offset: number, buffer: Uint8Array) => disk.write(offset, IoVector.of(buffer)),
        writeZeroes: (offset: number, length: number) => disk.writeZeroes(offset, length, { mayUnmap: true }),
        discard: (offset: number, length: number) => disk.discard(offset, length),
        flush: () => disk.flush(),
      };
      return new GuestWorkload(guestDisk, {
        guest: OWNERS_GUEST,
        guests: GUESTS,
        seed: 11,
        queueDepth: buffers.length,
        states,
        clock: session.environment.clock,
        readBase: readFileAt(base),
        observer: { completed: () => {}, verified: () => {}, wrong: (report) => void wrong.push(report) },
        stop,
      });
    }
  });
});
