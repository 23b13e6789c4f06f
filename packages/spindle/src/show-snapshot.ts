/** Looks at an internal snapshot of an image instead of at the disk as it is now. */
import { BlockError, type Co, isBlockError } from "@spindle/base";
import { type BlockNode, type InternalSnapshot, skipFilters } from "@spindle/block";

/** An id or else a name; or what of both has to fit. */
export type SnapshotSelector = string | { readonly id?: string; readonly name?: string };

/** Lets a node that was opened read-only show the snapshot. @throws {BlockError} ENOENT, ENOTSUP, EIO; in QEMU's words. */
export function* showSnapshot(node: BlockNode, selector: SnapshotSelector): Co<void> {
  const { driver } = skipFilters(node);
  const { snapshots } = driver;
  if (snapshots === undefined)
    throw failure(
      "ENOTSUP",
      `Block format '${driver.name}' used by device '' does not support temporarily loading internal snapshots`,
    );
  const found = select(snapshots.list(), selector);
  if (found === undefined) throw failure("ENOENT", "Can't find snapshot");
  try {
    yield* snapshots.show(found.id);
  } catch (error) {
    throw isBlockError(error) ? failure(error.code, error.message) : error;
  }
}

function select(list: readonly InternalSnapshot[], selector: SnapshotSelector): InternalSnapshot | undefined {
  if (typeof selector === "string")
    return list.find(({ id }) => id === selector) ?? list.find(({ name }) => name === selector);
  const { id, name } = selector;
  return list.find((one) => (id ?? one.id) === one.id && (name ?? one.name) === one.name);
}

function failure(code: BlockError["code"], reason: string): BlockError {
  return new BlockError(code, `Failed to load snapshot: ${reason}`);
}
