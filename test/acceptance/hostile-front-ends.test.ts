/**
 * Front ends that mean harm, against `spindle serve` as a process: it lives, serves the next one, keeps no descriptor, and
 * comes to rest. Each case has a connection of its own; what it is answered does not matter here, that it ends does.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readdirSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { sharingCalls } from "@spindle/host-node";
import { FrontEnd, MessageSocket, message } from "@spindle/vhost-user";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Scratch, SPINDLE, spindle } from "./program.ts";

const { VhostRequest } = message;
const calls = sharingCalls();
const PAGE = 4096;
const MEMORY_BYTES = 64 * PAGE;
const USER = 0x5000_0000_0000;

interface Case {
  readonly name: string;
  readonly attempt: (socket: MessageSocket) => void;
}

const nothing = new Uint8Array(0);
const state = (index: number, value: number) => message.encodeVringState({ index, value });

/** Sends, and waits for the answer to a question behind it, or for the end: the message has been dealt with then. */
function send(socket: MessageSocket, request: number, payload: Uint8Array, descriptors: readonly number[] = []): void {
  try {
    socket.send(request, payload, { needReply: true, descriptors });
    socket.send(VhostRequest.GET_QUEUE_NUM, nothing);
    for (;;) {
      const reply = socket.receive();
      for (const fd of reply?.descriptors ?? []) calls.close(fd);
      if (reply === undefined || reply.request === VhostRequest.GET_QUEUE_NUM) return;
    }
  } catch {
    // The other side has hung up.
  }
}

/** What a decent front end does first. */
function greet(socket: MessageSocket): void {
  socket.send(VhostRequest.GET_PROTOCOL_FEATURES, nothing);
  const offered = message.decodeBits(socket.receive()?.payload ?? nothing);
  socket.send(VhostRequest.SET_PROTOCOL_FEATURES, message.encodeBits(offered));
  socket.send(VhostRequest.GET_FEATURES, nothing);
  const features = message.decodeBits(socket.receive()?.payload ?? nothing);
  send(socket, VhostRequest.SET_FEATURES, message.encodeBits({ ...features, high: features.high & 1 }));
}

function withDescriptors(make: () => number[], use: (descriptors: readonly number[]) => void): void {
  const descriptors = make();
  try {
    use(descriptors);
  } finally {
    for (const fd of descriptors) closeSync(fd);
  }
}

const memoryFile = (): number => calls.createMemoryFile("guest", MEMORY_BYTES);
const region = (more: Partial<message.MemoryRegion> = {}): message.MemoryRegion => ({
  ...{ guestAddress: 0, length: MEMORY_BYTES, userAddress: USER, fileOffset: 0 },
  ...more,
});

function shareMemory(socket: MessageSocket): void {
  withDescriptors(
    () => [memoryFile()],
    (fds) => send(socket, VhostRequest.SET_MEM_TABLE, message.encodeMemoryTable([region()]), fds),
  );
}

const SIZES: Readonly<Record<string, number>> = {
  GET_FEATURES: 0,
  SET_FEATURES: 8,
  SET_MEM_TABLE: 40,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 40,
  SET_VRING_BASE: 8,
  GET_VRING_BASE: 8,
  SET_VRING_KICK: 8,
  SET_VRING_CALL: 8,
  SET_VRING_ERR: 8,
  SET_PROTOCOL_FEATURES: 8,
  SET_VRING_ENABLE: 8,
  SET_BACKEND_REQ_FD: 0,
  GET_CONFIG: 12,
  SET_CONFIG: 12,
  GET_INFLIGHT_FD: 24,
  SET_INFLIGHT_FD: 24,
};

function sizeCases(): Case[] {
  return Object.entries(SIZES).flatMap(([name, size]) =>
    [0, 1, 7, size - 1, size + 1, size + 8, message.PAYLOAD_BYTES_MAX].flatMap((length) =>
      length < 0 || length === size
        ? []
        : {
            name: `${name} with ${length} bytes`,
            attempt: (socket) =>
              send(socket, VhostRequest[name as keyof typeof VhostRequest], new Uint8Array(length).fill(0xff)),
          },
    ),
  );
}

function indexCases(): Case[] {
  const requests = ["SET_VRING_NUM", "SET_VRING_BASE", "GET_VRING_BASE", "SET_VRING_ENABLE"] as const;
  const plain = requests.flatMap((name) =>
    [2, 255, 1000, 2 ** 31, 2 ** 32 - 1].map((index) => ({
      name: `${name} of queue ${index}`,
      attempt: (socket: MessageSocket) => send(socket, VhostRequest[name], state(index, 1)),
    })),
  );
  const addresses = [2, 1000, 2 ** 32 - 1].map((index) => ({
    name: `SET_VRING_ADDR of queue ${index}`,
    attempt: (socket: MessageSocket) =>
      send(
        socket,
        VhostRequest.SET_VRING_ADDR,
        message.encodeVringAddresses({ index, descriptors: 0, used: 0, available: 0 }),
      ),
  }));
  const events = (["SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR"] as const).flatMap((name) =>
    [2, 255, 0x200, 2 ** 32 - 1].map((low) => ({
      name: `${name} with the number ${low}`,
      attempt: (socket: MessageSocket) =>
        withDescriptors(
          () => [calls.createEvent()],
          (fds) => send(socket, VhostRequest[name], message.encodeBits({ low, high: 0 }), fds),
        ),
    })),
  );
  return [...plain, ...addresses, ...events];
}

function descriptorCases(): Case[] {
  const given = message.encodeVringDescriptor({ index: 0, given: true });
  const files: Readonly<Record<string, () => number>> = {
    "a folder": () => openSync("/", "r"),
    "what is always readable": () => openSync("/dev/zero", "r"),
    "a file": memoryFile,
    "its own program": () => openSync("/proc/self/exe", "r"),
  };
  const payloads = {
    ...{ SET_VRING_KICK: given, SET_VRING_CALL: given, SET_VRING_ERR: given },
    SET_BACKEND_REQ_FD: nothing,
  };
  const events = (Object.keys(payloads) as (keyof typeof payloads)[]).flatMap((name) => [
    ...Object.entries(files).map(([what, open]) => ({
      name: `${name} with ${what}`,
      attempt: (socket: MessageSocket) =>
        withDescriptors(
          () => [open()],
          (fds) => send(socket, VhostRequest[name], payloads[name], fds),
        ),
    })),
    ...[0, 2, 8, 9, 64, 200].map((count) => ({
      name: `${name} with ${count} descriptors`,
      attempt: (socket: MessageSocket) =>
        withDescriptors(
          () => Array.from({ length: count }, () => calls.createEvent()),
          (fds) => send(socket, VhostRequest[name], payloads[name], fds),
        ),
    })),
  ]);
  const unexpected = ["GET_FEATURES", "SET_FEATURES", "SET_VRING_NUM", "GET_CONFIG", "SET_OWNER"].map((name) => ({
    name: `${name} with descriptors`,
    attempt: (socket: MessageSocket) =>
      withDescriptors(
        () => [memoryFile(), memoryFile()],
        (fds) => send(socket, VhostRequest[name as keyof typeof VhostRequest], new Uint8Array(SIZES[name] ?? 0), fds),
      ),
  }));
  return [...events, ...unexpected];
}

function memoryCases(): Case[] {
  const tables: Readonly<Record<string, readonly message.MemoryRegion[]>> = {
    "no region": [],
    "an empty region": [region({ length: 0 })],
    "an unaligned guest address": [region({ guestAddress: 8 })],
    "an unaligned front end's address": [region({ userAddress: 8 })],
    "an unaligned offset": [region({ fileOffset: 8, length: PAGE })],
    "an unaligned length": [region({ length: 5000 })],
    "a region beyond its file": [region({ length: MEMORY_BYTES + PAGE })],
    "an offset beyond its file": [region({ fileOffset: MEMORY_BYTES })],
    "an address that overflows": [region({ guestAddress: 2 ** 53 - PAGE })],
    "overlapping regions": [region(), region({ userAddress: 0 })],
    "regions that overlap for the front end": [region(), region({ guestAddress: MEMORY_BYTES })],
    "a terabyte": [region({ length: 2 ** 40 })],
  };
  const shapes = Object.entries(tables).flatMap(([what, regions]) =>
    [regions.length, 0, regions.length + 1, 8].map((count) => ({
      name: `a memory table with ${what}, and ${count} files`,
      attempt: (socket: MessageSocket) =>
        withDescriptors(
          () => Array.from({ length: count }, memoryFile),
          (fds) => send(socket, VhostRequest.SET_MEM_TABLE, message.encodeMemoryTable(regions), fds),
        ),
    })),
  );
  const counts = [2, 8, 9, 2 ** 31, 2 ** 32 - 1].map((count) => ({
    name: `a memory table that says ${count} regions and holds one`,
    attempt: (socket: MessageSocket) => {
      const payload = message.encodeMemoryTable([region()]);
      new DataView(payload.buffer).setUint32(0, count, true);
      withDescriptors(
        () => [memoryFile()],
        (fds) => send(socket, VhostRequest.SET_MEM_TABLE, payload, fds),
      );
    },
  }));
  return [...shapes, ...counts];
}

function queueCases(): Case[] {
  const event = (socket: MessageSocket, request: number, index = 0) =>
    withDescriptors(
      () => [calls.createEvent()],
      (fds) => {
        calls.signal(fds[0] as number);
        send(socket, request, message.encodeVringDescriptor({ index, given: true }), fds);
      },
    );
  const run = (socket: MessageSocket, size: number, at: readonly [number, number, number], base = 0) => {
    greet(socket);
    shareMemory(socket);
    send(socket, VhostRequest.SET_VRING_NUM, state(0, size));
    const [descriptors, available, used] = at.map((address) => USER + address) as [number, number, number];
    const addresses = message.encodeVringAddresses({ index: 0, descriptors, available, used });
    send(socket, VhostRequest.SET_VRING_ADDR, addresses);
    send(socket, VhostRequest.SET_VRING_BASE, state(0, base));
    event(socket, VhostRequest.SET_VRING_KICK);
    send(socket, VhostRequest.SET_VRING_ENABLE, state(0, 1));
  };
  const rings: Readonly<Record<string, (socket: MessageSocket) => void>> = {
    "outside of memory": (socket) => run(socket, 128, [MEMORY_BYTES, PAGE, 2 * PAGE]),
    "at the end of memory": (socket) => run(socket, 1024, [MEMORY_BYTES - 16, PAGE, 2 * PAGE]),
    "one over the other": (socket) => run(socket, 128, [0, 0, 0]),
    "at odd addresses": (socket) => run(socket, 128, [1, 3, 5]),
    "with an index that is far ahead": (socket) => run(socket, 128, [0, 8192, 16_384], 40_000),
    "with a base beyond 16 bits": (socket) => run(socket, 128, [0, 8192, 16_384], 2 ** 32 - 1),
    "started twice": (socket) => {
      run(socket, 128, [0, 8192, 16_384]);
      event(socket, VhostRequest.SET_VRING_KICK);
      event(socket, VhostRequest.SET_VRING_CALL);
    },
    "whose memory is exchanged while it runs": (socket) => {
      run(socket, 128, [0, 8192, 16_384]);
      for (let round = 0; round < 5; round++) shareMemory(socket);
    },
    "whose memory is taken away while it runs": (socket) => {
      run(socket, 128, [0, 8192, 16_384]);
      send(socket, VhostRequest.SET_MEM_TABLE, message.encodeMemoryTable([]));
    },
    "stopped before they run": (socket) => send(socket, VhostRequest.GET_VRING_BASE, state(0, 0)),
    "kicked before they are there": (socket) => event(socket, VhostRequest.SET_VRING_KICK),
    "without kicks": (socket) =>
      send(socket, VhostRequest.SET_VRING_KICK, message.encodeVringDescriptor({ index: 0, given: false })),
  };
  const sizes = [0, 3, 127, 2048, 65_536, 2 ** 31, 2 ** 32 - 1].map((size) => ({
    name: `a queue of ${size} entries`,
    attempt: (socket: MessageSocket) => run(socket, size, [0, 8192, 16_384]),
  }));
  return [...Object.entries(rings).map(([what, attempt]) => ({ name: `rings ${what}`, attempt })), ...sizes];
}

function otherCases(): Case[] {
  const unknown = Array.from({ length: 70 }, (_, request) => ({
    name: `request ${request} without a payload`,
    attempt: (socket: MessageSocket) => {
      greet(socket);
      send(socket, request, nothing);
    },
  }));
  const config = (
    [
      [0xffff_ffff, 4],
      [250, 256],
      [0, 257],
      [0, 0],
    ] as const
  ).map(([offset, length]) => ({
    name: `${length} bytes of configuration at ${offset}`,
    attempt: (socket: MessageSocket) => {
      const piece = message.encodeConfig({ offset, flags: 0, bytes: new Uint8Array(length) });
      send(socket, VhostRequest.GET_CONFIG, piece);
      send(socket, VhostRequest.SET_CONFIG, piece);
    },
  }));
  const inflight = [
    { length: 2 ** 40, offset: 0, queues: 2, size: 128 },
    { length: PAGE, offset: 0, queues: 65_535, size: 65_535 },
    { length: PAGE, offset: 2 ** 52, queues: 1, size: 1 },
    { length: 0, offset: 0, queues: 0, size: 0 },
  ].map((description) => ({
    name: `requests in flight in ${JSON.stringify(description)}`,
    attempt: (socket: MessageSocket) => {
      send(socket, VhostRequest.GET_INFLIGHT_FD, message.encodeInflight(description));
      for (const count of [0, 1, 2])
        withDescriptors(
          () => Array.from({ length: count }, memoryFile),
          (fds) => send(socket, VhostRequest.SET_INFLIGHT_FD, message.encodeInflight(description), fds),
        );
    },
  }));
  const features = [
    { low: 2 ** 32 - 1, high: 2 ** 32 - 1 },
    { low: 0, high: 0 },
    { low: 0, high: 2 ** 31 },
  ].map((bits) => ({
    name: `features ${JSON.stringify(bits)}`,
    attempt: (socket: MessageSocket) => {
      send(socket, VhostRequest.SET_FEATURES, message.encodeBits(bits));
      send(socket, VhostRequest.SET_PROTOCOL_FEATURES, message.encodeBits(bits));
    },
  }));
  return [...unknown, ...config, ...inflight, ...features];
}

/** Heads that are no heads, as bytes. */
const HEADERS: readonly (readonly [request: number, flags: number, length: number])[] = [
  [1, 0, 0],
  [1, 2, 0],
  [1, 3, 0],
  [1, 5, 0],
  [1, 1, 4097],
  [5, 9, 2 ** 31],
  [5, 9, 2 ** 32 - 1],
  [2 ** 32 - 1, 1, 0],
  [0, 0xffff_ffff, 0xffff_ffff],
];

describe("hostile front ends", () => {
  const scratch = new Scratch();
  let child: ChildProcess;
  let idleDescriptors = 0;
  let complaints = "";

  const openDescriptors = (): number => readdirSync(`/proc/${child.pid}/fd`).length;
  const processorTicks = (): number => {
    const fields = readFileSync(`/proc/${child.pid}/stat`, "latin1").split(") ")[1]?.split(" ") ?? [];
    return Number(fields[11]) + Number(fields[12]);
  };

  /** A decent front end uses the disk: everything before it has been dealt with. */
  const works = (): void => {
    using frontEnd = new FrontEnd(scratch.path("socket"), { queues: 2, queueSize: 16, dataBytes: PAGE });
    const content = new Uint8Array(PAGE).fill(complaints.length % 251);
    const read = new Uint8Array(PAGE);
    frontEnd.runner.run(frontEnd.queue(0).write(PAGE, content));
    frontEnd.runner.run(frontEnd.queue(1).read(PAGE, read));
    expect(Buffer.compare(read, content)).toBe(0);
  };

  /** Waits until the last connection is over. */
  const settled = async (): Promise<number> => {
    for (let tries = 0; tries < 100 && openDescriptors() !== idleDescriptors; tries++) await delay(20);
    return openDescriptors();
  };

  beforeAll(async () => {
    await spindle(["create", "-f", "qcow2", "disk", "8M"], { cwd: scratch.folder });
    const argv = [...SPINDLE, "serve", "disk", "--vhost-user", "socket", "--queues", "2"];
    child = spawn(argv[0] as string, argv.slice(1), { cwd: scratch.folder, stdio: ["ignore", "pipe", "pipe"] });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      complaints += text;
    });
    await new Promise((resolve) => child.stdout?.once("data", resolve));
    works();
    await delay(300);
    idleDescriptors = openDescriptors();
  });
  afterAll(() => {
    child.kill("SIGKILL");
    scratch[Symbol.dispose]();
  });

  const groups: Readonly<Record<string, readonly Case[]>> = {
    "wrong sizes": sizeCases(),
    "queues that are not there": indexCases(),
    "wrong descriptors": descriptorCases(),
    "lies about memory": memoryCases(),
    "wrong queues": queueCases(),
    "whatever else": otherCases(),
  };

  test.each(Object.entries(groups))("change nothing for the next one: %s", async (_name, cases) => {
    for (const acknowledged of [false, true])
      for (const { name, attempt } of cases) {
        const socket = new MessageSocket(calls.connect(scratch.path("socket")));
        try {
          if (acknowledged) greet(socket);
          attempt(socket);
        } catch {
          // The server may hang up at any time.
        } finally {
          socket.close();
        }
        expect(child.exitCode, name).toBeNull();
      }
    works();
    expect(await settled()).toBe(idleDescriptors);
  });

  test("may send heads that are none", async () => {
    for (const words of HEADERS) {
      const fd = calls.connect(scratch.path("socket"));
      calls.send(fd, new Uint8Array(new Uint32Array(words).buffer));
      calls.send(fd, new Uint8Array(100).fill(0xff));
      calls.close(fd);
    }
    works();
    expect(await settled()).toBe(idleDescriptors);
  });

  test("may go at every byte of what they say", async () => {
    const table = message.encodeMemoryTable([region()]);
    const messages = [
      message.encodeMessage(VhostRequest.GET_FEATURES, nothing),
      message.encodeMessage(VhostRequest.SET_FEATURES, message.encodeBits({ low: 0, high: 1 })),
      message.encodeMessage(VhostRequest.SET_MEM_TABLE, table),
      message.encodeMessage(VhostRequest.SET_VRING_NUM, state(0, 128)),
      message.encodeMessage(VhostRequest.GET_VRING_BASE, state(0, 0)),
    ];
    const whole = Buffer.concat(messages);
    const tableAt = Buffer.concat(messages.slice(0, 2)).length;
    for (let length = 0; length <= whole.length; length++) {
      const fd = calls.connect(scratch.path("socket"));
      calls.send(fd, whole.subarray(0, Math.min(length, tableAt)));
      if (length > tableAt)
        withDescriptors(
          () => [memoryFile()],
          (fds) => calls.send(fd, whole.subarray(tableAt, length), fds),
        );
      calls.close(fd);
    }
    works();
    expect(await settled()).toBe(idleDescriptors);
  });

  test("leave the program at rest, and every complaint is one line", async () => {
    works();
    await settled();
    const before = processorTicks();
    await delay(1000);
    // Ticks are hundredths of a second: a thread that spins would take a hundred.
    expect(processorTicks() - before).toBeLessThan(20);
    expect(complaints.split("\n").filter((line) => line !== "" && !/^spindle: \S/.test(line))).toEqual([]);
    expect(complaints).not.toMatch(/internal error/);
  });
});
