/**
 * A stream of bytes to one peer, such as a monitor's client: a socket, or the standard streams. What the peer does not
 * take is kept up to a limit; a peer that never reads is cut off, so that it costs neither memory nor anybody's time.
 */
import type { Duplex, Readable, Writable } from "node:stream";

export interface ByteConnection {
  /** Called for every piece that arrives. The bytes belong to the callee. */
  onData: (bytes: Uint8Array) => void;
  /**
   * Called once, when the peer sends no more, the connection has failed, or {@link close} was called. In the first case
   * what is written still reaches the peer, until {@link close}.
   */
  onEnd: () => void;
  /** Sends bytes, in order. @returns false when the connection is over and the bytes go nowhere. */
  write(bytes: Uint8Array): boolean;
  /** Sends what is still to be sent, and ends. */
  close(): void;
}

export interface ByteConnectionOptions {
  /** A peer for which more than this many bytes wait is cut off. 16 MiB when absent. */
  readonly pendingBytesMax?: number;
}

const PENDING_BYTES_MAX: number = 16 * 1024 * 1024;

/** How long a peer may take to accept the rest after {@link ByteConnection.close}. */
const LINGER_MS = 1000;

/** Over a socket. */
export function socketConnection(socket: Duplex, options: ByteConnectionOptions = {}): ByteConnection {
  return new StreamConnection(socket, socket, options);
}

/** Over the standard streams of this process. */
export function standardConnection(options: ByteConnectionOptions = {}): ByteConnection {
  return new StreamConnection(process.stdin, process.stdout, options);
}

class StreamConnection implements ByteConnection {
  onData: (bytes: Uint8Array) => void = () => {};
  onEnd: () => void = () => {};
  readonly #input: Readable;
  readonly #output: Writable;
  readonly #pendingBytesMax: number;
  #over = false;
  #toldEnd = false;

  constructor(input: Readable, output: Writable, options: ByteConnectionOptions) {
    this.#input = input;
    this.#output = output;
    this.#pendingBytesMax = options.pendingBytesMax ?? PENDING_BYTES_MAX;
    const end = (): void => this.#end();
    const cut = (): void => this.#cut();
    input.on("data", (bytes: Uint8Array) => {
      if (!this.#over) this.onData(bytes);
    });
    // A peer that has nothing more to say may still listen to the answers: whoever gives them closes the connection.
    input.on("end", () => this.#tellEnd());
    input.on("error", cut);
    output.on("error", cut);
    output.on("close", end);
  }

  write(bytes: Uint8Array): boolean {
    if (this.#over) return false;
    this.#output.write(bytes);
    if (this.#output.writableLength <= this.#pendingBytesMax) return true;
    this.#cut();
    return false;
  }

  close(): void {
    if (this.#over) return;
    this.#end();
    if (this.#output === process.stdout) {
      // Standard output is the process's own and stays; an open standard input would keep the process alive.
      this.#input.destroy();
      return;
    }
    const linger = setTimeout(() => this.#output.destroy(), LINGER_MS).unref();
    this.#output.end(() => {
      clearTimeout(linger);
      this.#output.destroy();
    });
  }

  #cut(): void {
    this.#end();
    this.#input.destroy();
    this.#output.destroy();
  }

  #end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#tellEnd();
  }

  #tellEnd(): void {
    if (this.#toldEnd) return;
    this.#toldEnd = true;
    this.onEnd();
  }
}
