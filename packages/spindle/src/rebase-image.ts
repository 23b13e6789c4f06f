/** Puts another backing file below an image: what `qemu-img rebase` does. */
import { dirname, resolve } from "node:path";
import { BlockError, type Co, errnoText, isBlockError } from "@spindle/base";
import { type BackingFile, type BlockNode, skipFilters } from "@spindle/block";
import { copyDifferences } from "@spindle/jobs";
import { type ImageName, openChain } from "./open-image.ts";
import { type ImageAccess, Session } from "./session.ts";

export interface RebaseImageOptions extends ImageAccess {
  /** The new backing file, as its name counts from the folder of the image; null for none. */
  readonly backing: BackingFile | null;
  /** Changes the name alone, and opens no backing file: what the image shows may change. */
  readonly unsafe?: boolean;
  /** The backing files are read past the host's page cache. */
  readonly direct?: boolean;
  /** Called with the bytes of the disk that are done, and its length. */
  readonly progress?: (done: number, size: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * Changes the backing file of an image. Unless it is `unsafe`, what the old one shows and the new one does not is copied
 * into the image first, so that it shows the same.
 * @throws {BlockError} ENOTSUP when the format has no backing files, EINVAL when there is no room for the name, and what
 *   opening, reading and writing throws. The image shows what it did then.
 */
export async function rebaseImage(name: ImageName, options: RebaseImageOptions): Promise<void> {
  const { signal, allowBacking = [], backing } = options;
  signal?.throwIfAborted();
  // The new backing file is one that the caller has named.
  const named = backing === null ? [] : [dirname(newPath(name, backing))];
  await using session = new Session({ ...options, allowBacking: [...allowBacking, ...named] });
  await session.run(rebaseIn(session, name, options));
}

function* rebaseIn({ graph }: Session, name: ImageName, options: RebaseImageOptions): Co<void> {
  const { backing, unsafe = false, direct, progress } = options;
  const top = yield* openChain(graph, name, { readOnly: false, alone: unsafe });
  if (!unsafe) {
    const below =
      backing === null
        ? null
        : yield* openNew(newPath(name, backing), backing, (file) =>
            openChain(graph, { ...file, direct }, { readOnly: true }),
          );
    const tell = progress === undefined ? {} : { progress: (done: number) => progress(done, top.length) };
    yield* copyDifferences({ top, backing: below, ...tell });
  }
  yield* changeBacking(skipFilters(top), backing);
}

function newPath({ filename }: ImageName, backing: BackingFile): string {
  return resolve(dirname(filename), backing.filename);
}

function* openNew(filename: string, backing: BackingFile, open: (name: ImageName) => Co<BlockNode>): Co<BlockNode> {
  try {
    return yield* open({ filename, format: backing.format ?? undefined });
  } catch (error) {
    if (!isBlockError(error)) throw error;
    const message = `Could not open new backing file '${backing.filename}': ${error.message}`;
    throw new BlockError(error.code, message, error.context, error);
  }
}

function* changeBacking({ driver }: BlockNode, backing: BackingFile | null): Co<void> {
  const refused = `Could not change the backing file to '${backing?.filename ?? ""}'`;
  if (driver.changeBackingFile === undefined) throw new BlockError("ENOTSUP", `${refused}: ${errnoText("ENOTSUP")}`);
  if (backing !== null && backing.format === null)
    throw new BlockError("EINVAL", `${refused}: backing format must be specified`);
  try {
    yield* driver.changeBackingFile(backing);
  } catch (error) {
    if (!isBlockError(error)) throw error;
    throw new BlockError(error.code, `${refused}: ${error.message}`, error.context, error);
  }
}
