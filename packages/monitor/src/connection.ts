/** What a session needs of whoever carries its bytes: a socket, the standard streams, a test. */

export interface Connection {
  /** Sends bytes, in order, and keeps what the peer does not take yet. @returns false when the peer is gone. */
  write(bytes: Uint8Array): boolean;
  /** Sends what is still to be sent, and ends. */
  close(): void;
}

/** One client's conversation with the monitor. */
export interface Session {
  /** Takes bytes from the client, in pieces of any size. They must not change afterwards. */
  receive(bytes: Uint8Array): void;
  /** The client sends no more: what it has sent is answered, and then the connection is closed. */
  end(): void;
}

/** A client that has sent this much more than has been looked at is cut off. */
export const WAITING_BYTES_MAX: number = 64 * 1024 * 1024;
