/**
 * `spindle serve` with monitors: a disk that a machine uses is stopped, resumed, streamed and made longer, and errors do what
 * `--rerror` and `--werror` say. The machine is the front end of the package; the program is a process.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { MiB } from "@spindle/base";
import { FrontEnd, message } from "@spindle/vhost-user";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { MonitorClient, QmpClient } from "./monitor-client.ts";
import { isOneClearLine, Scratch, SPINDLE, spindle } from "./program.ts";

const PAGE = 4096;

let scratch: Scratch;
let child: ChildProcess | undefined;
let complaints: string;
let ended: Promise<number | null>;

beforeEach(() => {
  scratch = new Scratch();
  complaints = "";
});
afterEach(() => {
  child?.kill("SIGKILL");
  scratch[Symbol.dispose]();
});

/** Starts to serve and waits until it does. */
async function serve(...argv: readonly string[]): Promise<void> {
  const [program = "", ...rest] = [...SPINDLE, "serve", ...argv, "--vhost-user", "socket"];
  const server = spawn(program, rest, { cwd: scratch.folder, stdio: ["ignore", "pipe", "pipe"] });
  child = server;
  server.stderr.setEncoding("utf8").on("data", (text: string) => {
    complaints += text;
  });
  ended = new Promise((resolve) => server.once("exit", resolve));
  await new Promise<void>((resolve, reject) => {
    server.stdout.once("data", () => resolve());
    server.once("exit", () => reject(new Error(`the program ended: ${complaints}`)));
  });
}

/** An image whose requests fail: as many times as there are rules. */
async function serveFaulty(rules: readonly object[], ...argv: readonly string[]): Promise<void> {
  await spindle(["create", "-f", "qcow2", "disk", "8M"], { cwd: scratch.folder });
  const image = { driver: "qcow2", file: { driver: "file", filename: "disk" } };
  await serve(`json:${JSON.stringify({ driver: "fault", rules, file: image })}`, ...argv);
}

const NO_SPACE = { operation: "write", errno: "ENOSPC", once: true };

/** A request that waits is not over after this. */
const PATIENCE_MS = 300;

/** What QEMU's machine says of such an error, but for the name of the node. */
function ioError(operation: string, action: string, nospace: boolean, reason: string): string {
  const data = `{"device": "", "nospace": ${nospace}, "node-name": "disk0", "reason": "${reason}", "operation": "${operation}", "action": "${action}"}`;
  return `{"event": "BLOCK_IO_ERROR", "data": ${data}}`;
}

/** What the program has used of the processors. */
function processorTicks(): number {
  const fields = readFileSync(`/proc/${child?.pid}/stat`, "latin1").split(") ")[1]?.split(" ") ?? [];
  return Number(fields[11]) + Number(fields[12]);
}

/** Whether a request is over; it is watched from now on. */
function watch(request: Promise<unknown>): { over: boolean } {
  const state = { over: false };
  const end = (): void => {
    state.over = true;
  };
  request.then(end, end);
  return state;
}

describe("a request that an error has stopped", () => {
  test("waits until it is resumed, however often it fails, and the guest sees no error", async () => {
    await serveFaulty([NO_SPACE, NO_SPACE], "--queues", "2", "--qmp", "unix:qmp", "--hmp", "unix:hmp");
    const qmp = await QmpClient.connect(scratch.path("qmp"));
    using frontEnd = new FrontEnd(scratch.path("socket"), { queues: 2 });
    const [another, queue] = [frontEnd.queue(0), frontEnd.queue(1)];
    const written = frontEnd.request(queue.write(PAGE, new Uint8Array(PAGE).fill(7)));
    const state = watch(written);
    const others: Promise<void>[] = [];
    const error = ioError("write", "stop", true, "No space left on device");
    for (let round = 1; round <= 2; round++) {
      await qmp.message(({ event }) => event === "STOP");
      // What comes to another queue waits as well.
      const other = frontEnd.request(another.read(0, new Uint8Array(PAGE)));
      others.push(other);
      const otherState = watch(other);
      await delay(PATIENCE_MS);
      expect([state.over, otherState.over]).toEqual([false, false]);
      expect((await qmp.execute("query-status")).return).toEqual({
        ...{ running: false, singlestep: false, status: "io-error" },
      });
      await qmp.execute("cont");
    }
    await written;
    await Promise.all(others);
    const once = [error, '{"event": "STOP"}', '{"event": "RESUME"}'];
    expect(qmp.events).toEqual([...once, ...once]);
    expect(qmp.text).toContain('{"return": {"status": "io-error", "singlestep": false, "running": false}}');
    expect((await qmp.execute("query-status")).return).toMatchObject({ running: true, status: "running" });
    const read = new Uint8Array(PAGE);
    await frontEnd.request(queue.read(PAGE, read));
    expect(Buffer.compare(read, new Uint8Array(PAGE).fill(7))).toBe(0);
    const line = "the guest's requests wait for 'cont': a write has failed: No space left on device";
    expect(complaints).toBe(`spindle: ${line}\nspindle: ${line}\n`);
    qmp.socket.write('{"execute": "quit"}');
    expect(await ended).toBe(0);
    expect(existsSync(scratch.path("socket"))).toBe(false);
    expect(existsSync(scratch.path("qmp"))).toBe(false);
  });

  test("waits on when the machine takes its queue away and gives it back, and when the program ends", async () => {
    const once = { operation: "read", once: true };
    await serveFaulty([once, once], "--rerror", "stop", "--qmp", "unix:qmp");
    const qmp = await QmpClient.connect(scratch.path("qmp"));
    using frontEnd = new FrontEnd(scratch.path("socket"));
    const queue = frontEnd.queue(0);
    const read = frontEnd.request(queue.read(0, new Uint8Array(PAGE)));
    const state = watch(read);
    await qmp.message(({ event }) => event === "STOP");
    frontEnd.startQueue(0, frontEnd.stopQueue(0));
    await delay(PATIENCE_MS);
    expect([state.over, frontEnd.inflight]).toEqual([false, 1]);
    await qmp.execute("cont");
    await qmp.message(({ event }) => event === "STOP");
    child?.kill("SIGTERM");
    expect(await ended).toBe(0);
    expect([state.over, frontEnd.inflight]).toEqual([false, 1]);
    await serve("disk");
    frontEnd.reconnect();
    await read;
    expect(frontEnd.inflight).toBe(0);
  });

  test("ends with the error when the program ends, and the machine does not keep what is in flight", async () => {
    await serveFaulty([{ operation: "read" }], "--rerror", "stop", "--qmp", "unix:qmp");
    const qmp = await QmpClient.connect(scratch.path("qmp"));
    const refusedProtocol = message.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD;
    using frontEnd = new FrontEnd(scratch.path("socket"), { refusedProtocol });
    const read = frontEnd.request(frontEnd.queue(0).read(0, new Uint8Array(PAGE)));
    const failed = expect(read).rejects.toMatchObject({ code: "EIO" });
    await qmp.message(({ event }) => event === "STOP");
    expect(qmp.events[0]).toBe(ioError("read", "stop", false, "Input/output error"));
    child?.kill("SIGTERM");
    await failed;
    expect(await ended).toBe(0);
  });
});

describe("an error of a guest's request", () => {
  test.each([
    ["is reported, and the guest goes on", [], "report", "EIO"],
    ["is ignored when told so", ["--werror", "ignore"], "ignore", undefined],
    ["is reported by enospc when it is another one", ["--werror", "enospc"], "report", "EIO"],
  ])("%s", async (_name, options, action, code) => {
    await serveFaulty([{ operation: "write", errno: "EACCES" }], "--qmp", "unix:qmp", ...options);
    const qmp = await QmpClient.connect(scratch.path("qmp"));
    using frontEnd = new FrontEnd(scratch.path("socket"));
    const queue = frontEnd.queue(0);
    const written = frontEnd.request(queue.write(0, new Uint8Array(PAGE)));
    if (code === undefined) await written;
    else await expect(written).rejects.toMatchObject({ code });
    await qmp.message(({ event }) => event === "BLOCK_IO_ERROR");
    expect(qmp.events).toEqual([ioError("write", action, false, "Permission denied")]);
    await frontEnd.request(queue.read(0, new Uint8Array(PAGE)));
    expect((await qmp.execute("query-status")).return).toMatchObject({ status: "running" });
  });

  test("is reported where nobody could resume the request", async () => {
    await serveFaulty([NO_SPACE]);
    using frontEnd = new FrontEnd(scratch.path("socket"));
    const written = frontEnd.request(frontEnd.queue(0).write(0, new Uint8Array(PAGE)));
    await expect(written).rejects.toMatchObject({ code: "EIO" });
    expect(complaints).toBe("");
  });
});

describe("a disk that a machine uses", () => {
  test("is stopped and resumed, streamed, and made longer by monitors", async () => {
    const base = Buffer.alloc(8 * MiB, "what the base holds");
    writeFileSync(scratch.path("base"), base);
    const create = ["create", "-f", "qcow2", "-b", "base", "-F", "raw", "disk"];
    await spindle(create, { cwd: scratch.folder });
    await serve("disk", "--qmp", "unix:qmp", "--hmp", "unix:hmp");
    const qmp = await QmpClient.connect(scratch.path("qmp"));
    const hmp = new MonitorClient(scratch.path("hmp"));
    using frontEnd = new FrontEnd(scratch.path("socket"));
    const queue = frontEnd.queue(0);
    await qmp.execute("stop");
    await qmp.execute("stop");
    const read = new Uint8Array(PAGE);
    const first = frontEnd.request(queue.read(PAGE, read));
    const state = watch(first);
    hmp.socket.write("info status\n");
    await hmp.until(() => hmp.text.includes("VM status: paused\r\n"));
    const before = processorTicks();
    await delay(1000);
    expect(state.over).toBe(false);
    // Ticks are hundredths of a second: a thread that looks for what it may not begin would take a hundred.
    expect(processorTicks() - before).toBeLessThan(20);
    hmp.socket.write("cont\ninfo status\n");
    await hmp.until(() => hmp.text.includes("VM status: running\r\n"));
    await first;
    expect(Buffer.compare(read, base.subarray(PAGE, 2 * PAGE))).toBe(0);
    expect(qmp.events).toEqual(['{"event": "STOP"}', '{"event": "RESUME"}']);

    await qmp.execute("block-stream", { device: "disk0", "job-id": "fill" });
    await qmp.message(({ event }) => event === "BLOCK_JOB_COMPLETED");
    await frontEnd.request(queue.read(3 * PAGE, read));
    expect(Buffer.compare(read, base.subarray(3 * PAGE, 4 * PAGE))).toBe(0);

    hmp.socket.write("block_resize disk0 16\n");
    expect(frontEnd.awaitConfiguration(10_000)).toBe(true);
    expect(frontEnd.capacity).toBe(16 * MiB);
    await frontEnd.request(queue.write(16 * MiB - PAGE, read));
    hmp.socket.write("quit\n");
    expect(await ended).toBe(0);
    expect(complaints).toBe("");
    const info = JSON.parse((await spindle(["info", "--output=json", "disk"], { cwd: scratch.folder })).stdout);
    expect(info).toMatchObject({ "virtual-size": 16 * MiB });
    expect(info).not.toHaveProperty("backing-filename");
  });

  test.each([
    ["a policy without a monitor", ["--werror", "stop"], /give --qmp or --hmp/],
    ["a policy for writes alone", ["--rerror", "enospc", "--qmp", "unix:q"], /rerror/],
    ["an unknown policy", ["--werror", "maybe", "--qmp", "unix:q"], /werror/],
    ["a place that is none", ["--qmp", "nowhere"], /unix:PATH or stdio/],
    ["two monitors at one place", ["--qmp", "stdio", "--hmp", "stdio"], /only one monitor/],
    ["a monitor where a file is", ["--qmp", "unix:disk"], /'disk'/],
  ])("is not served, and one line says why: %s", async (_name, options, said) => {
    await spindle(["create", "-f", "qcow2", "disk", "8M"], { cwd: scratch.folder });
    const outcome = await spindle(["serve", "disk", "--vhost-user", "socket", ...options], { cwd: scratch.folder });
    expect(outcome.code).toBe(1);
    expect(outcome.stderr).toMatch(said);
    expect(isOneClearLine(outcome.stderr), outcome.stderr).toBe(true);
    expect(existsSync(scratch.path("socket"))).toBe(false);
  });
});
