/**
 * What both kinds of session share: requests are answered strictly one after the other, by one coroutine that exists as
 * long as there are requests, and everything is let go of at the end.
 */
import { type Clock, type Co, encodeUtf8, type Runner, sleep } from "@spindle/base";
import { type Connection, type Session, WAITING_BYTES_MAX } from "./connection.ts";

/** Answering leaves the thread to others after this long, for this long. */
const WORK_MS = 8;
const REST_MS = 0.5;

export interface SessionHost {
  readonly clock: Clock;
  readonly runner: Pick<Runner, "spawn">;
  /** The program is about to end: no more requests are answered. */
  readonly quitting: boolean;
  /** A session is over, or has sent its last reply because the program is about to end. */
  settled(session: SessionLoop): void;
}

export abstract class SessionLoop implements Session {
  readonly #host: SessionHost;
  readonly #connection: Connection;
  #answering = false;
  #ended = false;
  #over = false;

  constructor(host: SessionHost, connection: Connection) {
    this.#host = host;
    this.#connection = connection;
  }

  /** Nothing is sent any more. */
  get over(): boolean {
    return this.#over;
  }

  receive(bytes: Uint8Array): void {
    if (this.#ended || this.#over) return;
    this.take(bytes);
    if (this.waitingBytes > WAITING_BYTES_MAX) this.#finish();
    else this.#start();
  }

  end(): void {
    if (this.#ended || this.#over) return;
    this.#ended = true;
    this.#start();
  }

  /** Keeps bytes for {@link answerNext}. */
  protected abstract take(bytes: Uint8Array): void;

  /** Bytes that were taken and not yet looked at. */
  protected abstract get waitingBytes(): number;

  /** Answers the next complete request. @returns false when there is none. */
  protected abstract answerNext(): Co<boolean>;

  /** The program is about to end. */
  protected get quitting(): boolean {
    return this.#host.quitting;
  }

  protected send(text: string): void {
    if (this.#over || text === "") return;
    if (!this.#connection.write(bytesOf(text))) this.#leave();
  }

  #start(): void {
    if (this.#answering) return;
    this.#answering = true;
    this.#host.runner.spawn(this.#answerAll(), (error) => {
      if (error !== undefined) throw error;
    });
  }

  *#answerAll(): Co<void> {
    try {
      let workingSinceMs = this.#host.clock.now();
      while (!this.#over && !this.#host.quitting && (yield* this.answerNext())) {
        if (this.#host.clock.now() - workingSinceMs < WORK_MS) continue;
        yield* sleep(this.#host.clock, REST_MS);
        workingSinceMs = this.#host.clock.now();
      }
    } finally {
      this.#answering = false;
    }
    if (this.#ended) this.#finish();
    if (this.#host.quitting) this.#host.settled(this);
  }

  #finish(): void {
    if (this.#over) return;
    this.#leave();
    this.#connection.close();
  }

  #leave(): void {
    this.#over = true;
    this.#host.settled(this);
  }
}

/** Long texts are replies in JSON, which are ASCII throughout. */
function bytesOf(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length);
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index);
    if (unit >= 0x80) return encodeUtf8(text);
    bytes[index] = unit;
  }
  return bytes;
}
