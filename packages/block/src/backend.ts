/**
 * The user's end of a node: the same request in three ways. As a coroutine for other coroutines, asynchronously with a
 * callback, and blocking. All three go through the node and are tracked there alike.
 */
import { AsyncRunner, BlockError, type Clock, type Co, isBlockError, SyncRunner, type Waiter } from "@spindle/base";
import type { WriteFlags } from "./driver.ts";
import type { IoVector } from "./io-vector.ts";
import type { BlockNode } from "./node.ts";

/** One request of a disk's user. Offsets and lengths are bytes. */
export type BlockRequest =
  | { readonly operation: "read"; readonly offset: number; readonly vector: IoVector }
  | { readonly operation: "write"; readonly offset: number; readonly vector: IoVector; readonly flags?: WriteFlags }
  | {
      readonly operation: "write-zeroes";
      readonly offset: number;
      readonly length: number;
      readonly flags?: WriteFlags;
    }
  | { readonly operation: "discard"; readonly offset: number; readonly length: number }
  | { readonly operation: "flush" };

/** A request that was started with {@link Backend.aio}. */
export interface AioRequest {
  /**
   * Asks for an early end. A request that still waits for its turn ends with ECANCELED; one whose I/O has begun
   * completes as if nothing had been asked. The callback comes once in either case.
   */
  cancel(): void;
}

/** The disk as a device sees it: a {@link Backend} on the owner's thread, a `DiskPort` on any other. */
export interface Disk {
  /** Bytes. */
  readonly length: number;
  readonly readOnly: boolean;
  read(offset: number, vector: IoVector): Co<void>;
  write(offset: number, vector: IoVector, flags?: WriteFlags): Co<void>;
  writeZeroes(offset: number, length: number, flags?: WriteFlags): Co<void>;
  discard(offset: number, length: number): Co<void>;
  flush(): Co<void>;
}

export class Backend implements Disk {
  readonly node: BlockNode;
  readonly #runner: AsyncRunner | SyncRunner;
  readonly #blocking: SyncRunner;

  /**
   * @param runner advances the asynchronous requests
   * @param waiter the thread's doorbell, for blocking requests of an event-loop thread
   */
  constructor(node: BlockNode, runner: AsyncRunner | SyncRunner, clock: Clock, waiter?: Waiter) {
    this.node = node;
    this.#runner = runner;
    this.#blocking = runner instanceof SyncRunner ? runner : new SyncRunner(clock, waiter);
    node.parents += 1;
  }

  get length(): number {
    return this.node.length;
  }
  get readOnly(): boolean {
    return this.node.readOnly;
  }

  read(offset: number, vector: IoVector): Co<void> {
    return this.node.read(offset, vector);
  }
  write(offset: number, vector: IoVector, flags?: WriteFlags): Co<void> {
    return this.node.write(offset, vector, flags);
  }
  writeZeroes(offset: number, length: number, flags?: WriteFlags): Co<void> {
    return this.node.writeZeroes(offset, length, flags);
  }
  discard(offset: number, length: number): Co<void> {
    return this.node.discard(offset, length);
  }
  flush(): Co<void> {
    return this.node.flush();
  }

  /** The request as a coroutine. It ends with ECANCELED when `canceled()` holds before its I/O has begun. */
  *co(request: BlockRequest, canceled?: () => boolean): Co<void> {
    const { node } = this;
    switch (request.operation) {
      case "read":
        return yield* node.read(request.offset, request.vector, canceled);
      case "write":
        return yield* node.write(request.offset, request.vector, request.flags, canceled);
      case "write-zeroes":
        return yield* node.writeZeroes(request.offset, request.length, request.flags, canceled);
      case "discard":
        return yield* node.discard(request.offset, request.length, canceled);
      default:
        return yield* node.flush();
    }
  }

  /** Starts the request; `done` is called once, later, with the error or undefined. */
  aio(request: BlockRequest, done: (error: BlockError | undefined) => void): AioRequest {
    let canceled = false;
    this.#runner.spawn(
      this.co(request, () => canceled),
      (error) => done(error === undefined ? undefined : asBlockError(error)),
    );
    const wake = this.#runner instanceof AsyncRunner ? this.#runner.wake.bind(this.#runner) : undefined;
    return {
      cancel() {
        canceled = true;
        wake?.();
      },
    };
  }

  /**
   * Does the request and returns when it is over.
   * @throws {BlockError} EDEADLK on an event-loop thread while asynchronous requests of the same thread are in flight
   *   on this node: they could not go on, and this one might wait for them for ever.
   */
  sync(request: BlockRequest): void {
    if (this.#blocking !== this.#runner && this.node.requestsInFlight > 0)
      throw new BlockError("EDEADLK", "a blocking request cannot wait for asynchronous ones of its own thread", {
        node: this.node.name,
        operation: request.operation,
      });
    this.#blocking.run(this.co(request));
  }

  /** Lets go of the node. */
  close(): void {
    this.node.parents -= 1;
  }
}

function asBlockError(error: unknown): BlockError {
  return isBlockError(error) ? error : new BlockError("EIO", String(error), {}, error);
}
