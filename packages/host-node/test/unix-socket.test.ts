import * as fs from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { type ByteConnection, listenUnix, type UnixListener } from "../src/index.ts";

const folder = fs.mkdtempSync(join(tmpdir(), "spindle-socket-"));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const listeners: UnixListener[] = [];
afterEach(async () => {
  for (const listener of listeners.splice(0)) await listener.close();
});

let count = 0;
function freshPath(): string {
  count += 1;
  return join(folder, `socket-${count}`);
}

async function listen(
  path: string,
  onConnection: (connection: ByteConnection) => void = () => {},
  pendingBytesMax?: number,
): Promise<void> {
  listeners.push(await listenUnix(path, onConnection, pendingBytesMax === undefined ? {} : { pendingBytesMax }));
}

function client(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path, allowHalfOpen: true });
    socket.once("connect", () => resolve(socket));
    socket.once("error", reject);
  });
}

async function received(socket: Socket): Promise<string> {
  let text = "";
  for await (const piece of socket) text += String(piece);
  return text;
}

describe("unix socket", () => {
  it("lets nobody but this user in, from its first moment, and leaves the process's mask alone", async () => {
    const path = freshPath();
    const mask = process.umask();
    const listening = listenUnix(path, () => {});
    while (!fs.existsSync(path)) await new Promise(setImmediate);
    expect(fs.statSync(path).mode & 0o777).toBe(0o700);
    listeners.push(await listening);
    expect(process.umask()).toBe(mask);
  });

  it("carries bytes both ways, also to a peer that has closed its half", async () => {
    const path = freshPath();
    let heard = "";
    await listen(path, (connection) => {
      connection.onData = (bytes) => {
        heard += Buffer.from(bytes).toString();
        connection.write(Buffer.from(`<${Buffer.from(bytes)}>`));
      };
      // The answer to the last word may take a while.
      connection.onEnd = () =>
        setTimeout(() => {
          connection.write(Buffer.from("<end>"));
          connection.close();
        }, 5);
    });
    const socket = await client(path);
    socket.end("hello");
    expect(await received(socket)).toBe("<hello><end>");
    expect(heard).toBe("hello");
  });

  it("removes a socket that a dead process has left, and not one that somebody serves", async () => {
    const path = freshPath();
    const { execFileSync } = await import("node:child_process");
    const script = `require("node:net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 9))`;
    expect(() => execFileSync(process.execPath, ["-e", script], { stdio: "ignore" })).toThrow();
    expect(fs.existsSync(path)).toBe(true);
    await listen(path);
    await expect(listen(path)).rejects.toMatchObject({ name: "BlockError", code: "EBUSY" });
    (await client(path)).destroy();
  });

  it("leaves what is no socket alone", async () => {
    const path = freshPath();
    fs.writeFileSync(path, "precious");
    await expect(listen(path)).rejects.toMatchObject({ name: "BlockError", code: "EEXIST" });
    expect(fs.readFileSync(path, "latin1")).toBe("precious");
  });

  it("refuses a path that the kernel would cut short, and one without a folder", async () => {
    await expect(listen(join(folder, "x".repeat(120)))).rejects.toMatchObject({ code: "EINVAL" });
    await expect(listen(join(folder, "absent/socket"))).rejects.toMatchObject({ name: "BlockError" });
  });

  it("cuts off a peer that never reads", async () => {
    const path = freshPath();
    const limit = 1024 * 1024;
    const cut = new Promise<number>((resolve) => {
      void listen(
        path,
        (connection) => {
          let written = 0;
          let ended = 0;
          connection.onEnd = () => {
            ended += 1;
          };
          const write = (): void => {
            for (let piece = 0; piece < 16; piece++) {
              written += 65_536;
              if (!connection.write(new Uint8Array(65_536))) {
                expect(connection.write(new Uint8Array(1))).toBe(false);
                expect(ended).toBe(1);
                resolve(written);
                return;
              }
            }
            setImmediate(write);
          };
          write();
        },
        limit,
      );
    });
    while (!fs.existsSync(path)) await new Promise(setImmediate);
    const socket = await client(path);
    socket.pause();
    socket.on("error", () => {});
    expect(await cut).toBeLessThan(limit + 4 * 1024 * 1024);
    socket.destroy();
  });

  it("tells once that the peer has gone", async () => {
    const path = freshPath();
    let ends = 0;
    const over = new Promise<void>((resolve) => {
      void listen(path, (connection) => {
        connection.onEnd = () => {
          ends += 1;
          setTimeout(resolve, 20);
        };
      });
    });
    while (!fs.existsSync(path)) await new Promise(setImmediate);
    (await client(path)).destroy();
    await over;
    expect(ends).toBe(1);
  });

  it("stops at close: no connection stays, and the socket is gone", async () => {
    const path = freshPath();
    let ended = false;
    const listener = await listenUnix(path, (connection) => {
      connection.onEnd = () => {
        ended = true;
      };
    });
    const socket = await client(path);
    socket.resume();
    const over = new Promise((resolve) => socket.once("end", resolve));
    await new Promise((resolve) => setTimeout(resolve, 20));
    await listener.close();
    await over;
    socket.destroy();
    expect(ended).toBe(true);
    expect(fs.existsSync(path)).toBe(false);
    const again = createServer();
    await new Promise<void>((resolve) => again.listen(path, resolve));
    await new Promise((resolve) => again.close(resolve));
  });
});
