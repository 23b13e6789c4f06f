/**
 * The thread that talks to front ends: takes one connection after the other, and steers the queue threads as the messages
 * say. It sleeps in `poll`, and waits only for its own queue threads.
 */
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { isBlockError } from "@spindle/base";
import { sharingCalls } from "@spindle/host-node";
import { DeviceState, type VirtioBlkHandle } from "@spindle/virtio-blk";
import { BackendSession, type Reply } from "./backend-session.ts";
import { encodeBits } from "./message.ts";
import { type Message, MessageSocket } from "./message-socket.ts";
import { QueueControl, type QueueControlHandle } from "./queue-control.ts";
import { Vring } from "./vring.ts";

export interface ProtocolThreadData {
  readonly device: VirtioBlkHandle;
  /** A listening socket. */
  readonly listener: number;
  /** An eventfd: the thread ends when it is readable. */
  readonly stop: number;
  /** An eventfd: the configuration space has changed. */
  readonly changed: number;
  /** One for each queue. */
  readonly queues: readonly { readonly control: QueueControlHandle; readonly orders: MessagePort }[];
}

const DONE = encodeBits({ low: 0, high: 0 });
const REFUSED = encodeBits({ low: 1, high: 0 });

const { device, listener, stop, changed, queues } = workerData as ProtocolThreadData;
const calls = sharingCalls();
const state = new DeviceState(device);
const vrings = queues.map(({ control, orders }, index) => new Vring(state, index, new QueueControl(control, orders)));

for (;;) {
  const ready = calls.poll([listener, stop]);
  if ((ready & 2) !== 0) break;
  const connection = (ready & 1) === 0 ? undefined : calls.accept(listener);
  if (connection !== undefined) serve(connection);
}
for (const vring of vrings) vring.close();

/** Serves one front end until it goes. */
function serve(connection: number): void {
  const session = new BackendSession(state, vrings);
  const socket = new MessageSocket(connection, (fd) => wait(session, fd));
  try {
    for (let message = socket.receive(); message !== undefined; message = socket.receive())
      answer(session, socket, message);
  } catch (error) {
    if (!isBlockError(error)) throw error;
    parentPort?.postMessage(`the connection was ended: ${error.message}`);
  } finally {
    session.close();
    socket.close();
  }
}

/** @returns false when the thread is to end. */
function wait(session: BackendSession, fd: number): boolean {
  for (;;) {
    const ready = calls.poll([fd, stop, changed]);
    if ((ready & 2) !== 0) return false;
    if ((ready & 4) !== 0) {
      calls.drain(changed);
      session.tellConfiguration();
    }
    if ((ready & 1) !== 0) return true;
  }
}

function sendReply(socket: MessageSocket, request: number, { payload, descriptors = [] }: Reply): void {
  try {
    socket.send(request, payload, { reply: true, descriptors });
  } finally {
    for (const fd of descriptors) calls.close(fd);
  }
}

/** What is refused is told to a front end that asks; the connection with one that does not ask ends. */
function answer(session: BackendSession, socket: MessageSocket, message: Message): void {
  const acknowledging = message.needsReply && session.acknowledges;
  try {
    const reply = session.handle(message);
    if (reply !== undefined) sendReply(socket, message.request, reply);
    else if (acknowledging) socket.send(message.request, DONE, { reply: true });
  } catch (error) {
    if (!isBlockError(error) || !acknowledging) throw error;
    parentPort?.postMessage(`refused: ${error.message}`);
    socket.send(message.request, REFUSED, { reply: true });
  }
}
