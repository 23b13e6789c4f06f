import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { listenForDescriptors, sharingCalls } from "../src/index.ts";
import { koffiLibrary } from "../src/koffi-library.ts";

const folder = fs.mkdtempSync(join(tmpdir(), "spindle-sharing-"));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const PAGE = 4096;

describe.skipIf(koffiLibrary() === null)("calls that share memory and descriptors", () => {
  const calls = sharingCalls();

  it("map one file twice, and show in one view what is written to the other", () => {
    const fd = calls.createMemoryFile("test", 4 * PAGE);
    const [first, second] = [calls.map(fd, 0, 4 * PAGE), calls.map(fd, PAGE, 3 * PAGE)];
    const bytes = new Uint8Array(calls.view(first, 4 * PAGE));
    const others = new Uint8Array(calls.view(second, 3 * PAGE));
    bytes[PAGE + 5] = 77;
    expect(others[5]).toBe(77);
    Atomics.store(new Uint16Array(others.buffer), 4, 0x1234);
    expect(fs.readSync(fd, bytes, 0, 2, PAGE + 8)).toBe(2);
    expect([...bytes.subarray(0, 2)]).toEqual([0x34, 0x12]);
    calls.unmap(first, 4 * PAGE);
    calls.unmap(second, 3 * PAGE);
    calls.close(fd);
  });

  it("wake a poll by an eventfd, tell which, and drain it", () => {
    const [quiet, loud] = [calls.createEvent(), calls.createEvent()];
    expect(calls.poll([quiet, loud], 0)).toBe(0);
    calls.signal(loud);
    calls.signal(loud);
    expect(calls.poll([quiet, loud])).toBe(2);
    calls.drain(loud);
    calls.drain(loud);
    const start = performance.now();
    expect(calls.poll([quiet, loud], 20)).toBe(0);
    expect(performance.now() - start).toBeGreaterThan(15);
    calls.close(quiet);
    calls.close(loud);
  });

  it("carry bytes and descriptors over a socket that nobody else may use", async () => {
    const path = join(folder, "carry");
    const listener = await listenForDescriptors(path);
    expect(fs.statSync(path).mode & 0o77).toBe(0);
    const client = calls.connect(path);
    const server = calls.accept(listener) as number;
    expect(calls.receive(server, 100)?.bytes.length).toBe(0);
    const carried = calls.createMemoryFile("carried", PAGE);
    fs.writeSync(carried, "through");
    expect(calls.send(client, Buffer.from("hello"), [carried, carried, carried])).toBe(5);
    calls.close(carried);
    const received = calls.receive(server, 100);
    expect(Buffer.from(received?.bytes ?? []).toString()).toBe("hello");
    expect(received?.descriptors.length).toBe(3);
    for (const fd of received?.descriptors ?? []) {
      const text = Buffer.alloc(7);
      fs.readSync(fd, text, 0, 7, 0);
      expect(text.toString()).toBe("through");
      calls.close(fd);
    }
    calls.close(client);
    expect(calls.receive(server, 100)).toBeUndefined();
    calls.close(server);
    await expect(listenForDescriptors(path)).rejects.toMatchObject({ code: "EBUSY" });
    calls.close(listener);
    const again = await listenForDescriptors(path);
    calls.close(again);
  });

  it("take no more descriptors than they say, and leak none of the others", async () => {
    const path = join(folder, "many");
    const listener = await listenForDescriptors(path);
    const client = calls.connect(path);
    const server = calls.accept(listener) as number;
    const before = fs.readdirSync("/proc/self/fd").length;
    expect(calls.send(client, Buffer.from("x"), new Array(200).fill(client))).toBe(1);
    const received = calls.receive(server, 100);
    expect(received?.truncated).toBe(true);
    for (const fd of received?.descriptors ?? []) calls.close(fd);
    expect(fs.readdirSync("/proc/self/fd").length).toBe(before);
    for (const fd of [client, server, listener]) calls.close(fd);
  });

  it("say what is wrong", async () => {
    expect(() => calls.map(-1, 0, PAGE)).toThrow(expect.objectContaining({ code: "EBADF" }));
    expect(() => calls.connect(join(folder, "nobody"))).toThrow(expect.objectContaining({ code: "ENOENT" }));
    await expect(listenForDescriptors(join(folder, "x".repeat(120)))).rejects.toMatchObject({ code: "EINVAL" });
    expect(() => calls.view(0, 2 ** 33)).toThrow(expect.objectContaining({ code: "EINVAL" }));
  });
});
