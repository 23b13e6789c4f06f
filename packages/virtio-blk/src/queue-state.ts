/**
 * One queue's share of the device state: a few words of shared memory. The transport writes where the rings stand and
 * whether the queue runs; the queue worker that serves it answers. Whether it runs is an *epoch*: odd while the driver
 * has the queue ready, counted up with every change. A worker acknowledges an epoch when nothing of an earlier one is
 * in flight any more, so "stopped" means "even and acknowledged, or served by nobody".
 */
import { assert, BlockError } from "@spindle/base";
import { QUEUE_FAULTS, type QueueFault } from "./queue-fault.ts";
import type { QueueLayout } from "./queue-layout.ts";
import type { QueuePosition } from "./virtqueue.ts";

/** Words that one queue takes. */
export const QUEUE_STATE_WORDS = 16;

/** The words that the driver sets through the transport, by their place. */
export const QueueWord: {
  readonly size: 0;
  readonly descriptorLow: 1;
  readonly descriptorHigh: 2;
  readonly driverLow: 3;
  readonly driverHigh: 4;
  readonly deviceLow: 5;
  readonly deviceHigh: 6;
} = {
  size: 0,
  descriptorLow: 1,
  descriptorHigh: 2,
  driverLow: 3,
  driverHigh: 4,
  deviceLow: 5,
  deviceHigh: 6,
};
export type QueueWord = (typeof QueueWord)[keyof typeof QueueWord];

const DRIVER_WORDS = 7;
const EPOCH = 7;
const ACKNOWLEDGED = 8;
/** Index of the serving thread plus one. */
const SERVER = 9;
/** Place in QUEUE_FAULTS plus one. */
const FAULT = 10;
const NEXT_AVAILABLE = 11;
const NEXT_USED = 12;
/** Index of the thread to ring for used buffers, plus one. */
const INTERRUPT_THREAD = 13;
/** 1 when the driver wants an interrupt that nobody has delivered. */
const INTERRUPT_PENDING = 14;

export class QueueState {
  readonly #words: Uint32Array;

  /** @param words this queue's part of the device's shared memory. */
  constructor(words: Uint32Array) {
    this.#words = words;
  }

  /** Sets what the driver says of the rings. The transport does so only while the queue is stopped. */
  setWord(word: QueueWord, value: number): void {
    Atomics.store(this.#words, word, value);
  }

  /** What the driver last said. */
  word(word: QueueWord): number {
    return Atomics.load(this.#words, word);
  }

  get layout(): QueueLayout {
    return {
      size: Atomics.load(this.#words, QueueWord.size),
      descriptorAddress: this.#address(QueueWord.descriptorLow, QueueWord.descriptorHigh),
      driverAddress: this.#address(QueueWord.driverLow, QueueWord.driverHigh),
      deviceAddress: this.#address(QueueWord.deviceLow, QueueWord.deviceHigh),
    };
  }

  /** Sets where the rings stand, for transports that are told it at once. Only while the queue is stopped. */
  setLayout({ size, descriptorAddress, driverAddress, deviceAddress }: QueueLayout): void {
    this.setWord(QueueWord.size, size);
    this.#setAddress(QueueWord.descriptorLow, QueueWord.descriptorHigh, descriptorAddress);
    this.#setAddress(QueueWord.driverLow, QueueWord.driverHigh, driverAddress);
    this.#setAddress(QueueWord.deviceLow, QueueWord.deviceHigh, deviceAddress);
  }

  get epoch(): number {
    return Atomics.load(this.#words, EPOCH);
  }

  get enabled(): boolean {
    return isEnabled(this.epoch);
  }

  /** Whether the queue is disabled and nothing of it is in flight. */
  get stopped(): boolean {
    const epoch = this.epoch;
    if (isEnabled(epoch)) return false;
    return Atomics.load(this.#words, ACKNOWLEDGED) === epoch || this.server === undefined;
  }

  /** Lets the queue run from `position` on. Only while it is stopped. */
  enable(position: QueuePosition): void {
    assert(this.stopped, "a queue is enabled only while it is stopped");
    Atomics.store(this.#words, FAULT, 0);
    Atomics.store(this.#words, NEXT_AVAILABLE, position.nextAvailable);
    Atomics.store(this.#words, NEXT_USED, position.nextUsed);
    Atomics.add(this.#words, EPOCH, 1);
  }

  /** Stops the queue; it is over when `stopped`. */
  disable(): void {
    if (this.enabled) Atomics.add(this.#words, EPOCH, 1);
  }

  /** The worker says that nothing of an earlier epoch is in flight. */
  acknowledge(epoch: number): void {
    Atomics.store(this.#words, ACKNOWLEDGED, epoch);
  }

  /** Forgets what the driver had set up. Only while the queue is stopped. */
  clear(): void {
    for (let word = 0; word < DRIVER_WORDS; word++) Atomics.store(this.#words, word, 0);
    Atomics.store(this.#words, INTERRUPT_PENDING, 0);
    Atomics.store(this.#words, FAULT, 0);
  }

  /** Index of the thread that serves the queue. */
  get server(): number | undefined {
    return decodeThread(Atomics.load(this.#words, SERVER));
  }

  /** @throws {BlockError} EBUSY when a thread serves the queue already. */
  claim(thread: number): void {
    if (Atomics.compareExchange(this.#words, SERVER, 0, thread + 1) !== 0)
      throw new BlockError("EBUSY", "another thread serves this virtqueue");
  }

  /** Ends serving; the next server goes on from `position`. */
  release(position: QueuePosition): void {
    Atomics.store(this.#words, NEXT_AVAILABLE, position.nextAvailable);
    Atomics.store(this.#words, NEXT_USED, position.nextUsed);
    Atomics.store(this.#words, SERVER, 0);
  }

  /** Where a server goes on. */
  get position(): QueuePosition {
    return {
      nextAvailable: Atomics.load(this.#words, NEXT_AVAILABLE),
      nextUsed: Atomics.load(this.#words, NEXT_USED),
    };
  }

  /** Why the queue was latched as broken. */
  get fault(): QueueFault | undefined {
    const code = Atomics.load(this.#words, FAULT);
    return code === 0 ? undefined : QUEUE_FAULTS[code - 1];
  }

  setFault(fault: QueueFault): void {
    Atomics.store(this.#words, FAULT, QUEUE_FAULTS.indexOf(fault) + 1);
  }

  /** Notes that the driver wants an interrupt. */
  interrupt(): void {
    Atomics.store(this.#words, INTERRUPT_PENDING, 1);
  }

  /** Whether there was an interrupt to deliver since the last call. For transports with an interrupt for each queue. */
  takeInterrupt(): boolean {
    return Atomics.exchange(this.#words, INTERRUPT_PENDING, 0) !== 0;
  }

  get interruptThread(): number | undefined {
    return decodeThread(Atomics.load(this.#words, INTERRUPT_THREAD));
  }

  set interruptThread(thread: number | undefined) {
    Atomics.store(this.#words, INTERRUPT_THREAD, encodeThread(thread));
  }

  #setAddress(low: QueueWord, high: QueueWord, address: number): void {
    this.setWord(low, address % 2 ** 32);
    this.setWord(high, Math.floor(address / 2 ** 32));
  }

  #address(low: QueueWord, high: QueueWord): number {
    const upper = Atomics.load(this.#words, high);
    // No memory stands that high: the layout is refused.
    if (upper >= 2 ** 21) return Number.MAX_SAFE_INTEGER;
    return upper * 2 ** 32 + Atomics.load(this.#words, low);
  }
}

export function isEnabled(epoch: number): boolean {
  return epoch % 2 === 1;
}

/** A thread index as a word, where 0 is none. */
export function encodeThread(thread: number | undefined): number {
  return thread === undefined ? 0 : thread + 1;
}

export function decodeThread(word: number): number | undefined {
  return word === 0 ? undefined : word - 1;
}
