/**
 * The locks by which programs that have one image open keep out of each other's way, at QEMU's bytes: a byte for each
 * thing that a holder does, and a byte for each thing that it cannot have others do. Who comes locks its own bytes first
 * and looks at everybody else's then, so that of two who come at once at least one sees the other. All are shared
 * locks, which never wait; what they mean is in where they stand. They belong to the open file description: all threads
 * of this process hold them together, and they end when the descriptor is closed or the process dies.
 */
import { BlockError } from "@spindle/base";
import type { StorageClaim } from "@spindle/block";
import { hostSync } from "./host-operation.ts";
import type { LinuxCalls } from "./linux-calls.ts";

/** Where QEMU's bytes stand: `file-posix.c` counts permissions from these. */
const PERMISSION_BASE = 100;
const UNSHARED_BASE = 200;

/** QEMU's permissions that Spindle tells of, by their numbers, and their names in its messages. */
const CONSISTENT_READ = 0;
const WRITE = 1;
const RESIZE = 3;
const NAMES: ReadonlyMap<number, string> = new Map([
  [CONSISTENT_READ, "consistent read"],
  [WRITE, "write"],
  [2, "write unchanged"],
  [RESIZE, "resize"],
]);

export class ImageLock {
  readonly #calls: LinuxCalls;
  readonly #fd: number;
  readonly #filename: string;
  readonly #held: Set<number> = new Set();

  constructor(calls: LinuxCalls, fd: number, filename: string) {
    this.#calls = calls;
    this.#fd = fd;
    this.#filename = filename;
  }

  /**
   * Adds a claim to those that are held.
   * @throws {BlockError} EAGAIN with QEMU's text when another program's claim is in the way; nothing was added.
   */
  add(claim: StorageClaim): void {
    const added = bytesOf(claim).filter((byte) => !this.#held.has(byte));
    const locked: number[] = [];
    try {
      for (const byte of added) {
        this.#lock(byte, true);
        locked.push(byte);
      }
      for (const byte of added) this.#checkOthers(byte);
    } catch (error) {
      for (const byte of locked) this.#lock(byte, false);
      throw error;
    }
    for (const byte of added) this.#held.add(byte);
  }

  /** Whether somebody else's byte stands against one of ours. */
  #checkOthers(byte: number): void {
    const isPermission = byte < UNSHARED_BASE;
    const number = byte - (isPermission ? PERMISSION_BASE : UNSHARED_BASE);
    const opposite = number + (isPermission ? UNSHARED_BASE : PERMISSION_BASE);
    const taken = hostSync(this.#attempt(), () => this.#calls.isLockedByOthers(this.#fd, opposite));
    if (!taken) return;
    throw new BlockError("EAGAIN", `Failed to get ${isPermission ? "" : "shared "}"${NAMES.get(number)}" lock`, {
      path: this.#filename,
      operation: "open",
      hint: `Is another process using the image [${this.#filename}]?`,
    });
  }

  #lock(byte: number, locks: boolean): void {
    hostSync(this.#attempt(), () => this.#calls.setSharedLock(this.#fd, byte, locks));
  }

  #attempt() {
    return { message: `Could not lock '${this.#filename}'`, operation: "open", path: this.#filename };
  }
}

function bytesOf({ write, resize, exclusive }: StorageClaim): number[] {
  const permissions = [CONSISTENT_READ, ...(write ? [WRITE] : []), ...(resize ? [RESIZE] : [])];
  const unshared = exclusive ? [WRITE, RESIZE] : [];
  return [...permissions.map((bit) => PERMISSION_BASE + bit), ...unshared.map((bit) => UNSHARED_BASE + bit)];
}
