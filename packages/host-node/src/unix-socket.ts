/**
 * Unix sockets of the monitor and of exports. Nobody but this user reaches one, not even between its creation and the
 * change of its mode; a socket that a dead process has left is removed, one that somebody serves is not.
 */
import * as fs from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { BlockError } from "@spindle/base";
import { type ByteConnection, type ByteConnectionOptions, socketConnection } from "./byte-connection.ts";
import { hostError } from "./host-errors.ts";
import { PATH_BYTES_MAX, sharingCalls } from "./sharing-calls.ts";

export interface UnixListener {
  /** Accepts no more connections, removes the socket, and cuts the connections that are open. */
  close(): Promise<void>;
}

/**
 * Listens at `path` and hands over each connection. Takes over a stale socket.
 * @throws {BlockError} EBUSY when a process listens there, EEXIST when something else than a socket is there, EINVAL when
 *   the path is too long, and what the host says.
 */
export async function listenUnix(
  path: string,
  onConnection: (connection: ByteConnection) => void,
  options: ByteConnectionOptions = {},
): Promise<UnixListener> {
  await makeRoom(path);
  const sockets = new Set<Socket>();
  // A client may close its half and still wait for answers.
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    onConnection(socketConnection(socket, options));
  });
  await bindPrivately(server, path);
  return {
    async close() {
      const ends = [...sockets].map((socket) => new Promise((resolve) => socket.once("close", resolve)));
      ends.push(new Promise((resolve) => server.close(resolve)));
      for (const socket of sockets) socket.destroy();
      await Promise.all(ends);
    },
  };
}

/**
 * The same for a protocol whose messages carry descriptors.
 * @returns the listening socket, for `SharingCalls.accept`.
 * @throws {BlockError} as {@link listenUnix}, and ENOTSUP where descriptors cannot be received.
 */
export async function listenForDescriptors(path: string): Promise<number> {
  const calls = sharingCalls();
  await makeRoom(path);
  const mask = process.umask(0o077);
  try {
    return calls.listen(path);
  } catch (error) {
    throw hostError(error, `Could not listen at '${path}'`, { path });
  } finally {
    process.umask(mask);
  }
}

async function makeRoom(path: string): Promise<void> {
  if (Buffer.byteLength(path) > PATH_BYTES_MAX)
    throw new BlockError("EINVAL", `the socket path '${path}' is longer than ${PATH_BYTES_MAX} bytes`, { path });
  await removeStale(path);
}

async function removeStale(path: string): Promise<void> {
  let stat: fs.Stats;
  try {
    stat = fs.lstatSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw hostError(error, `Could not listen at '${path}'`, { path });
  }
  if (!stat.isSocket()) throw new BlockError("EEXIST", `'${path}' exists and is not a socket`, { path });
  if (await answers(path)) throw new BlockError("EBUSY", `another process listens at '${path}'`, { path });
  try {
    fs.unlinkSync(path);
  } catch (error) {
    throw hostError(error, `Could not remove the stale socket '${path}'`, { path });
  }
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    // Only a refused connection says that nobody is there; a full backlog (EAGAIN) or a foreign owner does not.
    probe.once("error", (error: NodeJS.ErrnoException) => resolve(error.code !== "ECONNREFUSED"));
  });
}

/** Binds with a mask that lets nobody else in. `listen` on a path binds before it returns. */
function bindPrivately(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error) => reject(hostError(error, `Could not listen at '${path}'`, { path })));
    server.once("listening", resolve);
    const mask = process.umask(0o077);
    try {
      server.listen(path);
    } finally {
      process.umask(mask);
    }
  });
}
