/**
 * A copy worker's work: takes commands from its channel, reads the chain through its own nodes, finds the clusters that
 * are all zeros, writes the others to their host offsets and completes the command. Many copies run side by side on the
 * one thread, so that a slow chain is waited for once and not once a copy. It never touches metadata.
 */
import { type Co, type Runner, transferBytes, until } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { descriptorIo } from "@spindle/host-node";
import { zeroRuns } from "@spindle/jobs";
import type { CopyChannel, CopyCommand } from "./copy-channel.ts";
import type { MeteredWaiter } from "./metered-waiter.ts";

export interface CopyServerOptions {
  readonly channel: CopyChannel;
  /** The chain below the top. */
  readonly chain: BlockNode;
  /** The file of the image that is filled. */
  readonly targetDescriptor: number;
  readonly clusterSize: number;
  /** Bytes of the longest copy. */
  readonly copyBytesMax: number;
  readonly runner: Pick<Runner, "spawn">;
  readonly waiter: MeteredWaiter;
  /** Rings the owner's doorbell. */
  readonly ringOwner: () => void;
}

export class CopyServer {
  readonly #options: CopyServerOptions;
  readonly #zeroes: Buffer;
  readonly #buffers: Uint8Array[] = [];

  constructor(options: CopyServerOptions) {
    this.#options = options;
    this.#zeroes = Buffer.alloc(options.clusterSize);
  }

  /** Ends when the channel is stopped and nothing is in flight. */
  *serve(): Co<void> {
    const { channel, runner, waiter } = this.#options;
    for (;;) {
      yield* until(() => channel.hasCommand || channel.stopped);
      for (let command = channel.popCommand(); command !== undefined; command = channel.popCommand()) {
        waiter.copies += 1;
        runner.spawn(this.#execute(command), () => {
          waiter.copies -= 1;
        });
      }
      if (!channel.stopped) continue;
      yield* until(() => waiter.copies === 0);
      return;
    }
  }

  *#execute(command: CopyCommand): Co<void> {
    const { channel, ringOwner, waiter } = this.#options;
    const { slot, length } = command;
    const buffer = this.#buffers.pop() ?? transferBytes(this.#options.copyBytesMax);
    let failed: "read" | "write" | undefined = "read";
    try {
      yield* this.#read(command, buffer.subarray(0, length));
      failed = "write";
      yield* this.#write(command, buffer.subarray(0, length));
      failed = undefined;
    } catch (error) {
      channel.setError(slot, error);
    }
    this.#buffers.push(buffer);
    channel.pushCompletion({ slot, failed, idleMs: waiter.takeSleptMs() });
    ringOwner();
  }

  *#read({ guestOffset, dataLength }: CopyCommand, into: Uint8Array): Co<void> {
    const { chain } = this.#options;
    const present = Math.max(0, Math.min(dataLength, chain.length - guestOffset));
    if (present > 0) yield* chain.read(guestOffset, IoVector.of(into.subarray(0, present)));
    into.fill(0, present);
  }

  *#write({ slot, hostOffset }: CopyCommand, data: Uint8Array): Co<void> {
    const { channel, targetDescriptor, clusterSize } = this.#options;
    const mask = channel.zeroMask(slot, data.length / clusterSize);
    for (const { start, end, zero } of zeroRuns(data, clusterSize, this.#isZero)) {
      mask.fill(zero ? 1 : 0, start / clusterSize, end / clusterSize);
      if (!zero)
        yield* descriptorIo.write(targetDescriptor, hostOffset + start, IoVector.of(data.subarray(start, end)));
    }
  }

  /** The first bytes of data differ from zero as a rule; only what might be zeros is compared as a whole. */
  readonly #isZero = (part: Uint8Array): boolean =>
    part[0] === 0 &&
    part[part.length >> 1] === 0 &&
    part[part.length - 1] === 0 &&
    this.#zeroes.equals(part.length === this.#zeroes.length ? part : this.#padded(part));

  #padded(part: Uint8Array): Uint8Array {
    const padded = Buffer.alloc(this.#zeroes.length);
    padded.set(part);
    return padded;
  }
}
