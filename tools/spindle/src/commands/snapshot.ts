/** `spindle snapshot`: the states of a disk that its image keeps inside of itself. */
import { constants } from "node:os";
import { BlockError, errnoText, isBlockError } from "@spindle/base";
import { type Disk, openDisk } from "spindle";
import { type Command, defineCommand, UsageError } from "../command.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORCE_SHARE, IMAGE_OPTS } from "../image-options.ts";
import { print } from "../output.ts";
import { snapshotLines } from "../snapshot-list.ts";

export const snapshot: Command = defineCommand({
  name: "snapshot",
  operands: "FILE",
  operandCount: { least: 1, most: 1, otherwise: "Expecting one image file name" },
  about: "Keeps states of a disk inside of its image, and goes back to them. Other programs must not use it meanwhile.",
  options: {
    list: { short: "l", help: "list the snapshots" },
    apply: { short: "a", value: "SNAPSHOT", help: "make the disk what it was; an id or a name" },
    create: { short: "c", value: "NAME", help: "keep the disk as it is now" },
    delete: { short: "d", value: "NAME", help: "give a snapshot up" },
    quiet: { short: "q", help: "accepted for qemu-img's sake" },
    "image-opts": IMAGE_OPTS,
    ...ACCESS,
    "force-share": FORCE_SHARE,
  },
  async run(values, [file = ""]) {
    const { list, apply, create } = values;
    const given = [list ? "" : undefined, apply, create, values.delete].filter((value) => value !== undefined);
    if (given.length > 1) throw new UsageError("Cannot mix '-l', '-a', '-c', '-d'");
    const { filename, options } = operandImage(file, { imageOpts: values["image-opts"] });
    await using disk = await openDisk(filename, {
      readOnly: list,
      forceShare: values["force-share"],
      ...accessOf(values),
      ...(options === undefined ? {} : { options }),
    });
    if (list) {
      const { snapshots = [] } = await disk.info();
      const lines = snapshotLines(snapshots).map((line) => `${line}\n`);
      print(lines.join(""));
    }
    if (create !== undefined) await createOne(disk, create);
    if (apply !== undefined) await applyOne(disk, apply);
    if (values.delete !== undefined) await removeOne(disk, values.delete);
    return EXIT_OK;
  },
});

async function createOne(disk: Disk, name: string): Promise<void> {
  try {
    await disk.createSnapshot(name);
  } catch (error) {
    if (!isBlockError(error)) throw error;
    const errno = error.code === "ENOTSUP" ? constants.errno.EOPNOTSUPP : constants.errno[error.code as "EINVAL"];
    const reason = `-${errno} (${errnoText(error.code)})`;
    throw new BlockError(error.code, `Could not create snapshot '${name}': ${reason}`, error.context, error);
  }
}

async function applyOne(disk: Disk, wanted: string): Promise<void> {
  const snapshots = disk.snapshots();
  const found = snapshots.find(({ id }) => id === wanted) ?? snapshots.find(({ name }) => name === wanted);
  try {
    await disk.applySnapshot(found?.id ?? wanted);
  } catch (error) {
    throw failure(error, `Could not apply snapshot '${wanted}': `);
  }
}

async function removeOne(disk: Disk, wanted: string): Promise<void> {
  const found = disk.snapshots().find(({ name }) => name === wanted);
  const failed = `Could not delete snapshot '${wanted}': `;
  if (found === undefined) throw new BlockError("ENOENT", `${failed}snapshot not found`);
  try {
    await disk.removeSnapshot(found.id);
  } catch (error) {
    throw failure(error, failed);
  }
}

function failure(error: unknown, before: string): unknown {
  if (!isBlockError(error)) return error;
  // The format has none when the error names the node; otherwise this image can have none.
  const isOfFormat = error.code === "ENOTSUP" && error.context.node !== undefined;
  const isOfImage = error.code === "ENOENT" || error.code === "ENOTSUP";
  const reason = isOfFormat
    ? "Block driver does not support snapshots"
    : isOfImage
      ? `Failed to load snapshot: ${errnoText(error.code)}`
      : error.message;
  return new BlockError(error.code, `${before}${reason}`, error.context, error);
}
