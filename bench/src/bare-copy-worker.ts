/** One thread of a bare copy: takes the next piece, reads it, writes it. */
import { readSync, writeSync } from "node:fs";
import { workerData } from "node:worker_threads";
import { MiB, transferBytes } from "@spindle/base";
import { DONE, GO, NEXT_PIECE, READY } from "./bare-copy.ts";

export interface BareCopyWork {
  /** Descriptors of this process. */
  readonly source: number;
  readonly target: number;
  readonly length: number;
  readonly control: SharedArrayBuffer;
}

const PIECE_BYTES = MiB;

const { source, target, length, control } = workerData as BareCopyWork;
const words = new Int32Array(control);
const buffer = transferBytes(PIECE_BYTES);

count(READY);
Atomics.wait(words, GO, 0);
for (let offset = nextOffset(); offset < length; offset = nextOffset()) {
  const bytes = Math.min(PIECE_BYTES, length - offset);
  readSync(source, buffer, 0, bytes, offset);
  writeSync(target, buffer, 0, bytes, offset);
}
count(DONE);

function nextOffset(): number {
  return Atomics.add(words, NEXT_PIECE, 1) * PIECE_BYTES;
}

function count(word: number): void {
  Atomics.add(words, word, 1);
  Atomics.notify(words, word);
}
