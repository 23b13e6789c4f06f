/**
 * The same bytes copied by two threads that do nothing but read and write: what the machine's kernel gives anybody who
 * copies through its calls.
 */
import { closeSync, ftruncateSync, openSync } from "node:fs";
import type { BareCopyWork } from "./bare-copy-worker.ts";
import { startWorker } from "./worker-thread.ts";

const THREADS = 2;

/** Words of the threads' common memory. */
export const READY = 0;
export const GO = 1;
export const NEXT_PIECE = 2;
export const DONE = 3;

/** @returns seconds from the moment that all threads stand ready until the last byte is written */
export async function bareCopy(from: string, to: string, length: number): Promise<number> {
  const source = openSync(from, "r");
  const target = openSync(to, "w");
  ftruncateSync(target, length);
  const control = new SharedArrayBuffer(4 * Int32Array.BYTES_PER_ELEMENT);
  const words = new Int32Array(control);
  const work: BareCopyWork = { source, target, length, control };
  const threads = Array.from({ length: THREADS }, () => startWorker("./bare-copy-worker.ts", work));
  const ended = Promise.all(threads.map((thread) => thread.ended));
  await Promise.race([reaches(words, READY), ended]);
  const begin = performance.now();
  Atomics.store(words, GO, 1);
  Atomics.notify(words, GO);
  await Promise.race([reaches(words, DONE), ended]);
  const seconds = (performance.now() - begin) / 1_000;
  await ended;
  closeSync(source);
  closeSync(target);
  return seconds;
}

/** Waits until every thread has counted itself in a word. */
async function reaches(words: Int32Array, word: number): Promise<void> {
  for (let count = Atomics.load(words, word); count < THREADS; count = Atomics.load(words, word))
    await Atomics.waitAsync(words, word, count).value;
}
