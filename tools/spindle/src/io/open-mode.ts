/** How the shell opens an image: what its options say beside the image's name. */
import { CommandFailure } from "./io-command.ts";

export interface OpenMode {
  readonly readOnly: boolean;
  /** Another program may be writing the image. */
  readonly forceShare: boolean;
  /** Writes go to a file that is gone when the image is closed. */
  readonly snapshot: boolean;
  readonly copyOnRead: boolean;
  /** Past the host's page cache. */
  readonly direct: boolean;
  /** Every write is durable before it completes. */
  readonly writethrough: boolean;
  /** Discards, and zeroes that may give space back, do so. */
  readonly unmap: boolean;
}

export const DEFAULT_MODE: OpenMode = {
  readOnly: false,
  forceShare: false,
  snapshot: false,
  copyOnRead: false,
  direct: false,
  writethrough: true,
  unmap: true,
};

const CACHE_MODES: Readonly<Record<string, Pick<OpenMode, "direct" | "writethrough">>> = {
  none: { direct: true, writethrough: false },
  off: { direct: true, writethrough: false },
  directsync: { direct: true, writethrough: true },
  writeback: { direct: false, writethrough: false },
  writethrough: { direct: false, writethrough: true },
  unsafe: { direct: false, writethrough: false },
};

const DISCARD_MODES: Readonly<Record<string, boolean>> = { ignore: false, off: false, unmap: true, on: true };

const AIO_MODES = ["threads", "native", "io_uring"];

/** @throws {CommandFailure} when there is no such cache mode. */
export function cacheMode(mode: OpenMode, text: string): OpenMode {
  const changes = Object.hasOwn(CACHE_MODES, text) ? CACHE_MODES[text] : undefined;
  if (changes === undefined) throw new CommandFailure(`Invalid cache option: ${text}`, "report");
  return { ...mode, ...changes };
}

/** @throws {CommandFailure} when there is no such discard mode. */
export function discardMode(mode: OpenMode, text: string): OpenMode {
  const unmap = Object.hasOwn(DISCARD_MODES, text) ? DISCARD_MODES[text] : undefined;
  if (unmap === undefined) throw new CommandFailure(`Invalid discard option: ${text}`, "report");
  return { ...mode, unmap };
}

/** The host's way to do I/O is not the user's to choose here. @throws {CommandFailure} when QEMU has no such way. */
export function checkAioMode(text: string): void {
  if (!AIO_MODES.includes(text)) throw new CommandFailure(`Invalid aio option: ${text}`, "report");
}
