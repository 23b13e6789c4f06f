/**
 * How the protocol thread steers a queue thread: orders come through a message port, and shared words say how far both
 * are. The queue thread sleeps in `poll`, so an eventfd wakes it; the protocol thread waits for it in `Atomics.wait`.
 */
import { type MessagePort, receiveMessageOnPort } from "node:worker_threads";
import { sharingCalls } from "@spindle/host-node";
import type { InflightPlace } from "./inflight-region.ts";
import type { MemoryPiece } from "./memory-table.ts";

/** What a queue thread serves until it is told to stop. Descriptors and addresses are the process's. */
export interface ServeOrder {
  readonly memory: readonly MemoryPiece[];
  /** The eventfd that the driver kicks. */
  readonly kick: number;
  /** The eventfd that says that used buffers are there. */
  readonly call: number;
  /** The eventfd that says that the queue is broken. */
  readonly error: number;
  /** Where requests in flight are logged, and the heads of those that were left behind, oldest first. */
  readonly inflight: { readonly place: InflightPlace; readonly left: readonly number[] } | undefined;
}

export interface QueueControlHandle {
  readonly words: SharedArrayBuffer;
  readonly event: number;
}

const WANTED = 0;
const GIVEN = 1;
const DONE = 2;
const WORDS = 3;

const REST = 0;
const SERVE = 1;
const END = 2;

export class QueueControl {
  readonly #words: Int32Array;
  readonly #event: number;
  readonly #port: MessagePort;

  static allocate(): QueueControlHandle {
    return { words: new SharedArrayBuffer(4 * WORDS), event: sharingCalls().createEvent() };
  }

  /** @param port this side's end of the channel. */
  constructor(handle: QueueControlHandle, port: MessagePort) {
    this.#words = new Int32Array(handle.words);
    this.#event = handle.event;
    this.#port = port;
  }

  /** Protocol thread: lets the queue be served. It is not being served. */
  start(order: ServeOrder): void {
    this.#port.postMessage(order);
    Atomics.compareExchange(this.#words, WANTED, REST, SERVE);
    Atomics.add(this.#words, GIVEN, 1);
    sharingCalls().signal(this.#event);
  }

  /** Protocol thread: waits until nothing of the order is in flight and no view of guest memory is left. */
  stop(): void {
    Atomics.compareExchange(this.#words, WANTED, SERVE, REST);
    sharingCalls().signal(this.#event);
    const given = Atomics.load(this.#words, GIVEN);
    for (;;) {
      const done = Atomics.load(this.#words, DONE);
      if (done === given) return;
      Atomics.wait(this.#words, DONE, done);
    }
  }

  /** Queue thread: whether there is something else to do than to rest. */
  get awaited(): boolean {
    return this.ending || Atomics.load(this.#words, GIVEN) !== Atomics.load(this.#words, DONE);
  }

  get ending(): boolean {
    return Atomics.load(this.#words, WANTED) === END;
  }

  /** Queue thread: whether the order is to be left. */
  get stopping(): boolean {
    return Atomics.load(this.#words, WANTED) !== SERVE;
  }

  /** Queue thread: the order that was given; undefined when there is none. */
  take(): ServeOrder | undefined {
    if (Atomics.load(this.#words, GIVEN) === Atomics.load(this.#words, DONE)) return undefined;
    return receiveMessageOnPort(this.#port)?.message as ServeOrder | undefined;
  }

  /** Queue thread: the order is done with. */
  finish(): void {
    Atomics.add(this.#words, DONE, 1);
    Atomics.notify(this.#words, DONE);
  }

  /** Any thread: ends the queue thread as soon as nothing is in flight. */
  static end(handle: QueueControlHandle): void {
    Atomics.store(new Int32Array(handle.words), WANTED, END);
    sharingCalls().signal(handle.event);
  }

  /** When a queue thread has died: nobody waits for it any more. */
  static abandon(handle: QueueControlHandle): void {
    const words = new Int32Array(handle.words);
    Atomics.store(words, WANTED, END);
    Atomics.store(words, DONE, Atomics.load(words, GIVEN));
    Atomics.notify(words, DONE);
  }
}
