/**
 * `spindle serve` as users meet it: a machine writes and flushes, the program is killed, and everything that was flushed is in
 * the image. The machine is the front end of the package on a thread of its own: the program is a process.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { type Co, join as joinCo, MiB, SeededRandom } from "@spindle/base";
import { randomBytes } from "@spindle/testkit";
import { peer } from "@spindle/testkit/peers";
import { FrontEnd } from "@spindle/vhost-user";
import type { GuestQueue } from "@spindle/virtio-blk";
import { describe, expect, test } from "vitest";
import { isOneClearLine, Scratch, SPINDLE, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");

/** The line that QEMU's programs say, and what it may mean. */
const LOCKED =
  /^spindle: Could not open 'disk': Failed to get (shared )?"write" lock\nIs another process using the image \[disk\]\?\n$/;

/** Starts to serve and waits until it does. */
async function serve(scratch: Scratch, ...argv: readonly string[]): Promise<ChildProcess> {
  const [program = "", ...rest] = [...SPINDLE, "serve", ...argv, "--vhost-user", "socket"];
  const child = spawn(program, rest, { cwd: scratch.folder, stdio: ["ignore", "pipe", "inherit"] });
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once("data", () => resolve());
    child.once("exit", () => reject(new Error("the program ended")));
  });
  return child;
}

function ended(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve) => child.once("exit", (code) => resolve(code)));
}

describe("what a guest has flushed", () => {
  test.each(["raw", "qcow2"] as const)("is in the image when the program is killed: %s", async (format) => {
    using scratch = new Scratch();
    if (format === "raw") {
      writeFileSync(scratch.path("disk"), "");
      truncateSync(scratch.path("disk"), 64 * MiB);
    } else await spindle(["create", "-f", "qcow2", "disk", "64M"], { cwd: scratch.folder });
    const child = await serve(scratch, "disk", "-f", format, "--queues", "2");
    const frontEnd = new FrontEnd(scratch.path("socket"), { queues: 2 });
    const content = randomBytes(new SeededRandom(5), 32 * MiB);
    const queues = [frontEnd.queue(0), frontEnd.queue(1)];
    const pieces = Array.from({ length: 512 }, (_, index) => index * 65_536);
    function* write(index: number) {
      const queue = queues[index] as (typeof queues)[number];
      for (const at of pieces.filter((_, piece) => piece % 2 === index))
        yield* queue.write(at, content.subarray(at, at + 65_536));
      yield* queue.flush();
    }
    frontEnd.runner.run(joinCo([write(0), write(1)]));
    const exit = ended(child);
    child.kill("SIGKILL");
    await exit;
    frontEnd[Symbol.dispose]();
    let kept = scratch.path("disk");
    if (format === "qcow2") {
      const check = await spindle(["info", "disk"], { cwd: scratch.folder });
      expect(check.stdout).toContain("corrupt: false");
      const second = await serve(scratch, "disk", "--read-only");
      using reader = new FrontEnd(scratch.path("socket"));
      const queue = reader.queue(0);
      const read = new Uint8Array(65_536);
      for (const at of pieces) {
        reader.runner.run(queue.read(at, read));
        expect(Buffer.compare(read, content.subarray(at, at + 65_536)), `at ${at}`).toBe(0);
      }
      expect(() => reader.runner.run(queue.write(0, read))).toThrow(expect.objectContaining({ code: "EIO" }));
      const over = ended(second);
      second.kill("SIGTERM");
      expect(await over).toBe(0);
      if (qemuImg === undefined) return;
      scratch.tool(qemuImg, "check", "disk");
      scratch.tool(qemuImg, "convert", "-O", "raw", "disk", "kept");
      kept = scratch.path("kept");
    }
    expect(Buffer.compare(readFileSync(kept).subarray(0, content.length), content)).toBe(0);
  });
});

describe("requests in flight", () => {
  test("are done once, and only once, when the program is killed and started again", async () => {
    using scratch = new Scratch();
    await spindle(["create", "-f", "qcow2", "disk", "64M"], { cwd: scratch.folder });
    const argv = ["disk", "-f", "qcow2", "--queues", "2"];
    let child = await serve(scratch, ...argv);
    using frontEnd = new FrontEnd(scratch.path("socket"), { queues: 2, dataBytes: 16_384 });
    const random = new SeededRandom(11);
    const written = new Map<number, number>();
    let done = 0;
    let over = false;
    // Each of 32 writers of a queue has places of its own, so that what a place holds is known.
    function* writer(queue: GuestQueue, index: number) {
      while (!over) {
        const at = (index * 64 + random.below(64)) * 16_384;
        const content = 1 + random.below(1_000_000);
        yield* queue.write(at, randomBytes(new SeededRandom(content), 16_384));
        written.set(at, content);
        done += 1;
      }
    }
    const queues = [frontEnd.queue(0), frontEnd.queue(1)];
    let running = 0;
    for (let index = 0; index < 64; index++) {
      running += 1;
      frontEnd.runner.spawn(writer(queues[index % 2] as GuestQueue, index), (error) => {
        running -= 1;
        expect(error).toBeUndefined();
      });
    }
    let left = 0;
    for (let round = 0; round < (process.env["SPINDLE_LONG"] === "1" ? 100 : 4); round++) {
      const before = done;
      const delayMs = random.below(60);
      let until = Number.POSITIVE_INFINITY;
      while (performance.now() < until) {
        frontEnd.runner.poll();
        if (done > before && until === Number.POSITIVE_INFINITY) until = performance.now() + delayMs;
        await new Promise((resolve) => setImmediate(resolve));
      }
      const exit = ended(child);
      child.kill("SIGKILL");
      await exit;
      left += frontEnd.inflight;
      child = await serve(scratch, ...argv);
      frontEnd.reconnect();
    }
    over = true;
    while (running > 0) {
      frontEnd.runner.poll();
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(left).toBeGreaterThan(0);
    expect(frontEnd.inflight).toBe(0);
    for (const [at, content] of written) {
      const read = new Uint8Array(16_384);
      frontEnd.runner.run(queues[0]?.read(at, read) as Co<void>);
      expect(Buffer.compare(read, randomBytes(new SeededRandom(content), 16_384)), `at ${at}`).toBe(0);
    }
    const exit = ended(child);
    child.kill("SIGTERM");
    expect(await exit).toBe(0);
  });
});

describe("the program", () => {
  test("ends in order at a signal while a machine is connected, and removes its socket", async () => {
    using scratch = new Scratch();
    await spindle(["create", "-f", "qcow2", "disk", "8M"], { cwd: scratch.folder });
    const child = await serve(scratch, "disk");
    expect(statSync(scratch.path("socket")).mode & 0o77).toBe(0);
    using frontEnd = new FrontEnd(scratch.path("socket"));
    const queue = frontEnd.queue(0);
    frontEnd.runner.run(queue.write(4096, new Uint8Array(4096).fill(9)));
    const exit = ended(child);
    child.kill("SIGINT");
    expect(await exit).toBe(0);
    expect(existsSync(scratch.path("socket"))).toBe(false);
  });

  test.each([
    ["no image", ["missing", "--vhost-user", "socket"], /Could not open 'missing'/],
    ["no socket", ["disk"], /--vhost-user/],
    ["too many queues", ["disk", "--vhost-user", "socket", "--queues", "17"], /1 to 16/],
    ["a path too long", ["disk", "--vhost-user", "x".repeat(200)], /longer than 107 bytes/],
    ["no folder for the socket", ["disk", "--vhost-user", "nowhere/socket"], /Could not listen at 'nowhere\/socket'/],
    ["a file in the socket's place", ["disk", "--vhost-user", "disk"], /exists and is not a socket/],
    ["somebody else at the socket", ["disk", "--vhost-user", "taken"], /another process listens at 'taken'/],
    ["a raw image of which nobody says so", ["raw", "--vhost-user", "socket"], /-f raw/],
    [
      "a stream into what nobody writes",
      ["disk", "--vhost-user", "s", "--read-only", "--stream"],
      /cannot be streamed/,
    ],
    ["a long serial", ["disk", "--vhost-user", "socket", "--serial", "x".repeat(21)], /up to 20 bytes/],
  ])("says in one line what is wrong: %s", async (_name, argv, said) => {
    using scratch = new Scratch();
    await spindle(["create", "-f", "qcow2", "disk", "8M"], { cwd: scratch.folder });
    writeFileSync(scratch.path("raw"), new Uint8Array(65_536));
    const other = createServer().listen(scratch.path("taken"));
    try {
      const outcome = await spindle(["serve", ...argv], { cwd: scratch.folder });
      expect(outcome.code).toBe(1);
      expect(outcome.stderr).toMatch(said);
      expect(isOneClearLine(outcome.stderr.replace(/\nTry 'spindle help.*\n$/s, "\n")), outcome.stderr).toBe(true);
    } finally {
      other.close();
    }
  });

  test.each([
    ["another server", []],
    ["another server, which serves it to readers", ["--read-only"]],
  ])("does not serve an image that %s has", async (_name, options) => {
    using scratch = new Scratch();
    await spindle(["create", "-f", "qcow2", "disk", "8M"], { cwd: scratch.folder });
    const first = await serve(scratch, "disk");
    const argv = ["serve", "disk", "--vhost-user", "other", ...options];
    const { code, stderr } = await spindle(argv, { cwd: scratch.folder });
    expect(code).toBe(1);
    expect(stderr).toMatch(LOCKED);
    expect(existsSync(scratch.path("other"))).toBe(false);
    using frontEnd = new FrontEnd(scratch.path("socket"));
    frontEnd.runner.run(frontEnd.queue(0).write(0, new Uint8Array(4096)));
    const over = ended(first);
    first.kill("SIGTERM");
    expect(await over).toBe(0);
  });

  test.skipIf(qemuIo === undefined)("does not serve an image that QEMU has", async () => {
    using scratch = new Scratch();
    await spindle(["create", "-f", "qcow2", "disk", "8M"], { cwd: scratch.folder });
    const qemu = spawn(qemuIo as string, ["disk"], { cwd: scratch.folder, stdio: ["pipe", "pipe", "inherit"] });
    await new Promise((resolve) => qemu.stdout.once("data", resolve));
    const { code, stderr } = await spindle(["serve", "disk", "--vhost-user", "socket"], { cwd: scratch.folder });
    expect(code).toBe(1);
    expect(stderr).toMatch(LOCKED);
    const over = ended(qemu);
    qemu.stdin.end("quit\n");
    await over;
    const child = await serve(scratch, "disk");
    const end = ended(child);
    child.kill("SIGTERM");
    expect(await end).toBe(0);
  });

  test("takes over the socket that a killed one has left", async () => {
    using scratch = new Scratch();
    await spindle(["create", "-f", "qcow2", "disk", "8M"], { cwd: scratch.folder });
    const first = await serve(scratch, "disk");
    const killed = ended(first);
    first.kill("SIGKILL");
    await killed;
    expect(existsSync(scratch.path("socket"))).toBe(true);
    const second = await serve(scratch, "disk");
    using frontEnd = new FrontEnd(scratch.path("socket"));
    expect(frontEnd.capacity).toBe(8 * MiB);
    const over = ended(second);
    second.kill("SIGTERM");
    expect(await over).toBe(0);
  });
});
