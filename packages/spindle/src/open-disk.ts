/** Opens disks: the way into the library. */
import type { OptionRecord } from "@spindle/block";
import { Disk } from "./disk.ts";
import { openChain } from "./open-image.ts";
import { type ImageAccess, Session } from "./session.ts";

export interface OpenDiskOptions extends ImageAccess {
  /** The image's format; found out by looking at its first bytes when absent. Give it for images that others can write. */
  readonly format?: string;
  /** Options as QEMU's `blockdev-add` takes them; the file name is for people only then. */
  readonly options?: OptionRecord;
  /** Reads and writes past the host's page cache, as `cache.direct` does; its chain too. Default false. */
  readonly direct?: boolean;
  /** Default false. */
  readonly readOnly?: boolean;
  /** Opens nothing that the image names: what it leaves to its backing file reads as zeros. Default false. */
  readonly alone?: boolean;
  /** Opens it although another program may be writing it; only with `readOnly`. Default false. */
  readonly forceShare?: boolean;
  /**
   * Copy workers that stand ready for streams with so many when this call ends. Without it the first stream starts them,
   * and copies on the owner's thread until they are there.
   */
  readonly workers?: number;
  readonly signal?: AbortSignal;
}

/**
 * Opens an image with its backing chain.
 * @throws {BlockError} ENOENT, EACCES and the like for files, EAGAIN for an image that another program is using, EACCES
 *   for a backing file that is not allowed, EINVAL and ENOTSUP for what is no valid image; the signal's reason when it is
 *   aborted first.
 */
export async function openDisk(filename: string, options: OpenDiskOptions = {}): Promise<Disk> {
  const { format, options: imageOptions, direct = false, readOnly = false, forceShare = false } = options;
  const { alone = false, workers, signal } = options;
  signal?.throwIfAborted();
  const session = new Session(options);
  try {
    const ready = workers === undefined ? undefined : session.warmUp(workers);
    // When opening fails, that is what the caller hears of.
    ready?.catch(() => {});
    const name = { filename, format, options: imageOptions, direct };
    const node = await session.run(openChain(session.graph, name, { readOnly, forceShare, alone }));
    await ready;
    signal?.throwIfAborted();
    return new Disk(session, node, filename);
  } catch (error) {
    await session.close();
    throw error;
  }
}
