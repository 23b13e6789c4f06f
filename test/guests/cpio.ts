/** Archives in cpio's "newc" form, as the kernel unpacks them into its first file system. */

export interface ArchiveFile {
  readonly path: string;
  /** Undefined for a folder. */
  readonly content?: Uint8Array | string;
  readonly executable?: boolean;
}

const TRAILER = "TRAILER!!!";

export function makeArchive(files: readonly ArchiveFile[]): Buffer {
  const entries = files.map(({ path, content, executable }, index) => {
    const mode = content === undefined ? 0o040755 : executable === true ? 0o100755 : 0o100644;
    return entry(path, mode, Buffer.from(content ?? ""), index + 1);
  });
  return Buffer.concat([...entries, entry(TRAILER, 0, Buffer.alloc(0), 0)]);
}

function entry(path: string, mode: number, content: Buffer, inode: number): Buffer {
  const name = Buffer.from(`${path}\0`);
  // Inode, mode, user, group, links, time, length, device twice, device of the file twice, name's length, checksum.
  const fields = [inode, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length, 0];
  const head = `070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}`;
  return Buffer.concat([padded(Buffer.concat([Buffer.from(head), name])), padded(content)]);
}

/** To a multiple of 4 bytes. */
function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
}
