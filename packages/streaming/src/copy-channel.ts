/**
 * The shared memory between a stream job's owner thread and one copy worker: a ring of commands, a ring of completions,
 * and for each copy in flight a place for what does not fit a record. Whoever pushes rings the other's doorbell.
 */
import { decodeError, decodeUtf8, type ErrorRecord, encodeError, encodeUtf8 } from "@spindle/base";
import { Ring } from "@spindle/shared-memory";

export interface CopyChannelHandle {
  readonly memory: SharedArrayBuffer;
  /** Copies that can be in flight. */
  readonly slotCount: number;
  /** Clusters of the longest copy. */
  readonly clustersMax: number;
}

/** One copy, as the worker is asked for it. All numbers are bytes but `slot`. */
export interface CopyCommand {
  readonly slot: number;
  readonly guestOffset: number;
  /** What the disk has of it; the rest, up to `length`, is behind the end of the disk. */
  readonly dataLength: number;
  /** Whole clusters. */
  readonly length: number;
  readonly hostOffset: number;
}

export interface CopyCompletion {
  readonly slot: number;
  /** The half that failed, if one did. */
  readonly failed: "read" | "write" | undefined;
  /** Milliseconds that the worker has slept over copies in flight since its last completion. */
  readonly idleMs: number;
}

const COMMAND_WIDTH = 5;
const COMPLETION_WIDTH = 3;
const HEADER_BYTES = 64;
const ERROR_BYTES = 512;
const STOP = 0;

const OUTCOMES = [undefined, "read", "write"] as const;

export class CopyChannel {
  readonly handle: CopyChannelHandle;
  readonly #header: Int32Array;
  readonly #commands: Ring;
  readonly #completions: Ring;
  readonly #zeroMasks: Uint8Array;
  readonly #errors: Uint8Array;
  readonly #command = new Float64Array(COMMAND_WIDTH);
  readonly #completion = new Float64Array(COMPLETION_WIDTH);

  static create(slotCount: number, clustersMax: number): CopyChannelHandle {
    const rings = Ring.bytes(slotCount, COMMAND_WIDTH) + Ring.bytes(slotCount, COMPLETION_WIDTH);
    const memory = new SharedArrayBuffer(HEADER_BYTES + rings + slotCount * (clustersMax + ERROR_BYTES));
    return { memory, slotCount, clustersMax };
  }

  constructor(handle: CopyChannelHandle) {
    const { memory, slotCount, clustersMax } = handle;
    this.handle = handle;
    this.#header = new Int32Array(memory, 0, HEADER_BYTES / 4);
    let at = HEADER_BYTES;
    this.#commands = new Ring(memory, at, slotCount, COMMAND_WIDTH);
    at += Ring.bytes(slotCount, COMMAND_WIDTH);
    this.#completions = new Ring(memory, at, slotCount, COMPLETION_WIDTH);
    at += Ring.bytes(slotCount, COMPLETION_WIDTH);
    this.#zeroMasks = new Uint8Array(memory, at, slotCount * clustersMax);
    this.#errors = new Uint8Array(memory, at + slotCount * clustersMax, slotCount * ERROR_BYTES);
  }

  get stopped(): boolean {
    return Atomics.load(this.#header, STOP) !== 0;
  }
  /** Tells the worker to end once its copies have ended. Ring its doorbell afterwards. */
  stop(): void {
    Atomics.store(this.#header, STOP, 1);
  }

  get hasCommand(): boolean {
    return this.#commands.length > 0;
  }
  get hasCompletion(): boolean {
    return this.#completions.length > 0;
  }

  /** There is always room: a command needs a slot. */
  pushCommand({ slot, guestOffset, dataLength, length, hostOffset }: CopyCommand): void {
    this.#commands.push([slot, guestOffset, dataLength, length, hostOffset]);
  }

  popCommand(): CopyCommand | undefined {
    const record = this.#command;
    if (!this.#commands.pop(record)) return undefined;
    const [slot, guestOffset, dataLength, length, hostOffset] = record as unknown as NumberTuple;
    return { slot, guestOffset, dataLength, length, hostOffset };
  }

  /** One byte for each cluster of a copy: 1 when it is all zeros. The worker fills it in before it completes the copy. */
  zeroMask(slot: number, clusterCount: number): Uint8Array {
    const start = slot * this.handle.clustersMax;
    return this.#zeroMasks.subarray(start, start + clusterCount);
  }

  pushCompletion({ slot, failed, idleMs }: CopyCompletion): void {
    this.#completions.push([slot, OUTCOMES.indexOf(failed), idleMs]);
  }

  popCompletion(): CopyCompletion | undefined {
    const record = this.#completion;
    if (!this.#completions.pop(record)) return undefined;
    const [slot, outcome, idleMs] = record as unknown as NumberTuple;
    return { slot, failed: OUTCOMES[outcome], idleMs };
  }

  /** Keeps why a copy failed, cut to what fits. */
  setError(slot: number, error: unknown): void {
    const record = encodeError(error);
    const bytes = encodeUtf8(JSON.stringify({ ...record, message: record.message.slice(0, ERROR_BYTES / 8) }));
    const place = this.#errorPlace(slot);
    place.fill(0);
    // Too long for its place all the same: the number is what matters.
    const short = encodeUtf8(JSON.stringify({ code: record.code, message: "", context: {} }));
    place.set(bytes.length <= ERROR_BYTES ? bytes : short);
  }

  error(slot: number): Error {
    const place = this.#errorPlace(slot);
    const end = place.indexOf(0);
    const text = decodeUtf8(place.slice(0, end < 0 ? place.length : end));
    return decodeError(JSON.parse(text) as ErrorRecord);
  }

  #errorPlace(slot: number): Uint8Array {
    return this.#errors.subarray(slot * ERROR_BYTES, (slot + 1) * ERROR_BYTES);
  }
}

type NumberTuple = readonly [number, number, number, number, number];
