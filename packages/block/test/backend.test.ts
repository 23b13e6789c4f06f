import { AsyncRunner, type EventLoop, isBlockError } from "@spindle/base";
import { LockKind } from "@spindle/shared-memory";
import { describe, expect, it } from "vitest";
import { Backend, type BlockRequest, IoVector } from "../src/index.ts";
import { clock, OneThread } from "./one-thread.ts";

const eventLoop: EventLoop = {
  now: () => performance.now(),
  defer: (callback) => void setImmediate(callback),
  timer(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
  keepAlive: () => () => {},
};

function setUp() {
  const one = new OneThread();
  const { node } = one.node(64 * 1024);
  const runner = new AsyncRunner(eventLoop, one.thread);
  return { one, node, runner, backend: new Backend(node, runner, clock, one.thread) };
}

const write = (offset: number, value: number): BlockRequest => {
  return { operation: "write", offset, vector: IoVector.of(new Uint8Array(512).fill(value)) };
};

const aio = (backend: Backend, request: BlockRequest): Promise<unknown> =>
  new Promise((resolve) => backend.aio(request, resolve));

describe("a backend", () => {
  it("gives the same result in each of its three ways", async () => {
    const { backend, runner } = setUp();
    await runner.run(backend.co(write(0, 1)));
    expect(await aio(backend, write(512, 2))).toBeUndefined();
    backend.sync(write(1024, 3));
    const bytes = new Uint8Array(2048);
    backend.sync({ operation: "write-zeroes", offset: 1536, length: 512 });
    await aio(backend, { operation: "flush" });
    await aio(backend, { operation: "discard", offset: 4096, length: 512 });
    backend.sync({ operation: "read", offset: 0, vector: IoVector.of(bytes) });
    expect([bytes[0], bytes[511], bytes[512], bytes[1024], bytes[1536]]).toEqual([1, 1, 2, 3, 0]);
  });

  it("tells the error of a request in each way", async () => {
    const { backend, runner } = setUp();
    const bad: BlockRequest = { operation: "read", offset: 64 * 1024, vector: IoVector.of(new Uint8Array(1)) };
    await expect(runner.run(backend.co(bad))).rejects.toMatchObject({ code: "EINVAL" });
    expect(isBlockError(await aio(backend, bad), "EINVAL")).toBe(true);
    expect(() => backend.sync(bad)).toThrow(expect.objectContaining({ code: "EINVAL" }));
  });

  it("cancels a request that still waits for its turn, and completes one that does not", async () => {
    const { one, node, backend } = setUp();
    const held = one.run(node.track(LockKind.copy, 0, 4096));
    let early: unknown;
    const waiting = new Promise((resolve) => {
      const request = backend.aio(write(0, 9), resolve);
      setTimeout(() => request.cancel(), 5);
    }).then((error) => {
      early = error;
    });
    await waiting;
    expect(isBlockError(early, "ECANCELED")).toBe(true);
    held.release();
    const done = new Promise((resolve) => {
      const request = backend.aio(write(0, 7), resolve);
      setTimeout(() => request.cancel(), 50);
    });
    expect(await done).toBeUndefined();
    expect(one.read(node, 0, 1)[0]).toBe(7);
  });

  it("refuses to block an event loop whose own requests are in flight, and blocks again afterwards", async () => {
    const { backend } = setUp();
    const asynchronous = aio(backend, write(0, 5));
    await new Promise((resolve) => setImmediate(resolve));
    let refused: unknown;
    try {
      backend.sync(write(0, 6));
    } catch (error) {
      refused = error;
    }
    await asynchronous;
    // The write may have been quick enough to be over; a refusal is the only other outcome.
    if (refused !== undefined) expect(isBlockError(refused, "EDEADLK")).toBe(true);
    backend.sync(write(0, 6));
  });
});
