/** A served disk whose length changes: what the front end hears, and what its requests find. */
import { sharingCalls } from "@spindle/host-node";
import { describe, expect, it } from "vitest";
import { FrontEnd, message } from "../src/index.ts";
import { ServedDisk } from "./served-disk.ts";

const MIB = 2 ** 20;
const SIZE = 16 * MIB;
const WAIT_MS = 10_000;

describe("a served disk", () => {
  it.each(["raw", "qcow2"] as const)("tells its new length, and serves just that: %s", async (format) => {
    await using disk = await ServedDisk.start({ format, size: SIZE, queues: 2 });
    using frontEnd = new FrontEnd(disk.socket, { queues: 2 });
    const queues = [frontEnd.queue(0), frontEnd.queue(1)] as const;
    const page = new Uint8Array(4096).fill(7);
    const read = new Uint8Array(4096);
    for (const length of [SIZE + 8 * MIB, 4 * MIB + 512, 4 * MIB, SIZE]) {
      await disk.session.run(disk.node.truncate(length));
      expect(frontEnd.awaitConfiguration(WAIT_MS)).toBe(true);
      expect(frontEnd.capacity).toBe(length);
      for (const queue of queues) {
        const last = Math.floor(length / 4096) * 4096 - 4096;
        await frontEnd.request(queue.write(last, page));
        await frontEnd.request(queue.read(last, read.fill(0)));
        expect(Buffer.compare(read, page)).toBe(0);
        await expect(frontEnd.request(queue.read(last + 4096, read))).rejects.toMatchObject({ code: "EIO" });
        await expect(frontEnd.request(queue.write(last + 4096, page))).rejects.toMatchObject({ code: "EIO" });
      }
    }
    // What was cut off is zeros now.
    await frontEnd.request(queues[0].read(SIZE - 8192, read.fill(1)));
    expect(Buffer.compare(read, new Uint8Array(4096))).toBe(0);
    expect(frontEnd.awaitConfiguration(0)).toBe(false);
    expect(disk.lines).toEqual([]);
  });

  it.each([
    ["has no channel for it", message.VHOST_USER_PROTOCOL_F_BACKEND_REQ],
    ["takes no configuration", message.VHOST_USER_PROTOCOL_F_CONFIG],
  ])("says nothing of it to a front end that %s", async (_name, refusedProtocol) => {
    await using disk = await ServedDisk.start({ size: SIZE });
    using frontEnd = new FrontEnd(disk.socket, { refusedProtocol });
    await disk.session.run(disk.node.truncate(2 * SIZE));
    expect(frontEnd.awaitConfiguration(200)).toBe(false);
    frontEnd.configuration = frontEnd.readConfiguration(0, 60);
    expect(frontEnd.capacity).toBe(2 * SIZE);
  });

  it("ends the connection of a front end that does not listen, and serves the next one", async () => {
    await using disk = await ServedDisk.start({ size: SIZE });
    const calls = sharingCalls();
    const pair = calls.socketPair();
    const [, full] = pair;
    while (calls.send(full, new Uint8Array(4096)) > 0);
    {
      using deaf = new FrontEnd(disk.socket);
      deaf.order(message.VhostRequest.SET_BACKEND_REQ_FD, new Uint8Array(0), [full]);
      await disk.session.run(disk.node.truncate(2 * SIZE));
      expect(deaf.socket.receive()).toBeUndefined();
    }
    using frontEnd = new FrontEnd(disk.socket);
    expect(frontEnd.capacity).toBe(2 * SIZE);
    for (const fd of pair) calls.close(fd);
    while (disk.lines.length === 0) await new Promise((resolve) => setImmediate(resolve));
    expect(disk.lines).toEqual(["the connection was ended: the other side takes no messages"]);
  });

  it("says it to each front end that comes, and only of changes that it has not seen", async () => {
    await using disk = await ServedDisk.start({ size: SIZE });
    for (const length of [SIZE, 2 * SIZE]) {
      await disk.session.run(disk.node.truncate(length));
      using frontEnd = new FrontEnd(disk.socket);
      expect(frontEnd.capacity).toBe(length);
      expect(frontEnd.awaitConfiguration(100)).toBe(false);
      await disk.session.run(disk.node.truncate(3 * SIZE));
      expect(frontEnd.awaitConfiguration(WAIT_MS)).toBe(true);
      expect(frontEnd.capacity).toBe(3 * SIZE);
    }
  });
});
