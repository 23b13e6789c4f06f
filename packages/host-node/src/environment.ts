/** What this host hands to the pure packages: its clock, its randomness, its codecs and ciphers, and its event loop. */
import type { Clock, EventLoop, RandomSource } from "@spindle/base";
import type { Environment, SecretStore } from "@spindle/block";
import { nodeCodecs } from "./codecs.ts";
import { nodeCryptography } from "./cryptography.ts";
import { nodeSecrets } from "./secrets.ts";

/** `performance` would do too, but is loaded with much else by the first who names it. */
const clock: Clock = {
  now() {
    const [seconds, nanoseconds] = process.hrtime();
    return seconds * 1000 + nanoseconds / 1_000_000;
  },
};

/** Random numbers of the operating system, fetched in batches. */
class SystemRandom implements RandomSource {
  readonly #batch: Uint32Array<ArrayBuffer> = new Uint32Array(256);
  #next = 256;

  u32(): number {
    if (this.#next === this.#batch.length) {
      process.getBuiltinModule("node:crypto").getRandomValues(this.#batch);
      this.#next = 0;
    }
    return this.#batch[this.#next++] as number;
  }
}

/** The environment of the calling thread. */
export function nodeEnvironment(secrets: SecretStore = nodeSecrets()): Environment {
  return { clock, random: new SystemRandom(), codecs: nodeCodecs, cryptography: nodeCryptography, secrets };
}

/** The longest delay that a timer takes. */
const LONGEST_DELAY_MS = 2 ** 31 - 1;

/**
 * The event loop of the calling thread. `defer` is `setImmediate`: it costs about 1.3 us, and microtasks, which cost less,
 * would keep I/O and timers waiting for as long as coroutines go on.
 */
export function nodeEventLoop(): EventLoop {
  let users = 0;
  const anchor = setInterval(() => {}, LONGEST_DELAY_MS).unref();
  return {
    now: clock.now,
    defer: (callback) => void setImmediate(callback),
    timer(delayMs, callback) {
      const timer = setTimeout(callback, Math.min(Math.ceil(delayMs), LONGEST_DELAY_MS));
      return () => clearTimeout(timer);
    },
    keepAlive() {
      users += 1;
      anchor.ref();
      return () => {
        users -= 1;
        if (users === 0) anchor.unref();
      };
    },
  };
}
