/**
 * One end of a vhost-user connection: whole messages out of the bytes of a socket, with the descriptors that came along.
 * Whatever the other side does, nothing is lost track of: descriptors are handed on or closed.
 */
import { BlockError } from "@spindle/base";
import { sharingCalls } from "@spindle/host-node";
import { DESCRIPTORS_MAX, decodeHeader, encodeMessage, HEADER_BYTES, type MessageHeader } from "./message.ts";

export interface Message extends MessageHeader {
  readonly payload: Uint8Array;
  /** The receiver's to close. */
  readonly descriptors: readonly number[];
}

export class MessageSocket {
  readonly #fd: number;
  readonly #wait: (fd: number) => boolean;
  #descriptors: number[] = [];

  /** @param wait waits until the descriptor can be read; false when waiting is to end. For as long as it takes when left out. */
  constructor(fd: number, wait: (fd: number) => boolean = untilReadable) {
    this.#fd = fd;
    this.#wait = wait;
  }

  /**
   * Waits for the next message. Undefined when the other side is gone, also in the middle of a message, or when waiting
   * was to end.
   * @throws {BlockError} EINVAL for what is no message.
   */
  receive(): Message | undefined {
    try {
      const head = this.#read(HEADER_BYTES);
      if (head === undefined) return undefined;
      const header = decodeHeader(head);
      const payload = this.#read(header.length);
      if (payload === undefined) return undefined;
      const descriptors = this.#descriptors;
      this.#descriptors = [];
      return { ...header, payload, descriptors };
    } finally {
      for (const fd of this.#descriptors) sharingCalls().close(fd);
      this.#descriptors = [];
    }
  }

  /** @throws {BlockError} EIO when the other side does not take it. */
  send(
    request: number,
    payload: Uint8Array,
    options: { reply?: boolean; needReply?: boolean; descriptors?: readonly number[] } = {},
  ): void {
    const bytes = encodeMessage(request, payload, options);
    if (sharingCalls().send(this.#fd, bytes, options.descriptors) !== bytes.length)
      throw new BlockError("EIO", "the other side takes no messages");
  }

  close(): void {
    sharingCalls().close(this.#fd);
  }

  /** Exactly so many bytes. */
  #read(length: number): Uint8Array | undefined {
    const calls = sharingCalls();
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      if (!this.#wait(this.#fd)) return undefined;
      const received = calls.receive(this.#fd, length - done);
      if (received === undefined) return undefined;
      this.#descriptors.push(...received.descriptors);
      if (received.truncated || this.#descriptors.length > DESCRIPTORS_MAX)
        throw new BlockError("EINVAL", "a message carries more descriptors than any may");
      bytes.set(received.bytes, done);
      done += received.bytes.length;
    }
    return bytes;
  }
}

function untilReadable(fd: number): boolean {
  while (sharingCalls().poll([fd]) === 0);
  return true;
}
