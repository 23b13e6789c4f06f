/**
 * Which files an image may name as its backing file. An image is data from outside: a name in it that were opened without
 * looking would let whoever made the image read any file of this host. Allowed is what lies in the folder of the image
 * that the user named, or below it, and in folders that the user has allowed.
 */
import * as fs from "node:fs";
import { dirname, isAbsolute, relative, resolve as resolvePath, sep } from "node:path";
import { BlockError, type Co } from "@spindle/base";
import type { BackingFile, BackingPolicy } from "@spindle/block";
import { hostOperation } from "./host-operation.ts";
import { fileIdentity } from "./open-file.ts";

export interface HostBackingPolicyOptions {
  /** Folders whose files, and those below, may be backing files too. */
  readonly allowedFolders?: readonly string[];
}

/** Never storage, whatever folder is allowed: opening them does something, or shows other processes. */
const FORBIDDEN_FOLDERS = ["/dev", "/proc", "/sys"] as const;

/** A protocol before a colon, as QEMU takes it; a single letter could be a drive, which this host has not. */
const PROTOCOL = /^[a-z][a-z0-9+.-]*:/i;

/** Longer names are in no image that QEMU makes. */
const NAME_LENGTH_MAX = 4096;

/** The one folder below /dev that holds plain files: those of a file system in memory. */
const MEMORY_FOLDER = "/dev/shm";

/** The policy for images in files of this host. */
export class HostBackingPolicy implements BackingPolicy {
  readonly #allowedFolders: readonly string[];

  constructor(options: HostBackingPolicyOptions = {}) {
    this.#allowedFolders = options.allowedFolders ?? [];
  }

  /**
   * The absolute path, without symbolic links, of a backing file. Relative names count from the folder of the image.
   * @throws {BlockError} EACCES when the image may not name it, ENOENT when there is no such file.
   */
  *resolve(image: string, backing: BackingFile, root: string, role = "backing file"): Co<string> {
    checkName(image, backing.filename, role);
    const asNamed = resolvePath(dirname(image), backing.filename);
    // Looked at twice: already looking up a name there may do something.
    if (isForbidden(asNamed)) throw refusal(image, backing.filename, asNamed, role);
    const path = yield* realPath(asNamed);
    const named = resolvePath(root);
    const folders = [yield* realPath(dirname(named)), dirname(yield* realPath(named))];
    for (const folder of this.#allowedFolders) folders.push(yield* realPath(folder));
    const allowed = !isForbidden(path) && folders.some((folder) => isInside(folder, path));
    if (!allowed) throw refusal(image, backing.filename, path, role);
    return path;
  }

  /**
   * Looks again at what was opened under a name that {@link resolve} gave: a folder on the way, or the file, may have
   * become a symbolic link after the first look.
   * @param identity the identity of the driver that was opened
   * @throws {BlockError} EACCES when it is another file.
   */
  *confirm(filename: string, identity: string | undefined): Co<void> {
    const path = yield* realPath(filename);
    const stat = yield* hostOperation<fs.BigIntStats>(
      { message: `Could not open '${filename}'`, operation: "open", path: filename },
      () => fs.statSync(path, { bigint: true }),
      (done) => fs.stat(path, { bigint: true }, done),
    );
    if (path === filename && identity === fileIdentity(stat)) return;
    throw new BlockError("EACCES", `the file '${filename}' was replaced while it was being opened`, { path: filename });
  }
}

/**
 * Whether `path` lies in `folder` or below it, by whole components: `/images-secret` is not in `/images`.
 * Both are absolute and without symbolic links.
 */
function isInside(folder: string, path: string): boolean {
  const way = relative(folder, path);
  return way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}

function isForbidden(path: string): boolean {
  if (isInside(MEMORY_FOLDER, path)) return false;
  return FORBIDDEN_FOLDERS.some((folder) => isInside(folder, path));
}

function checkName(image: string, name: string, role: string): void {
  const fault = name.includes("\0")
    ? "it contains a NUL"
    : name === ""
      ? "it is empty"
      : name.length > NAME_LENGTH_MAX
        ? "it is too long"
        : PROTOCOL.test(name)
          ? `only files of this host can be ${role}s that an image names`
          : undefined;
  if (fault === undefined) return;
  const shown = JSON.stringify(name.slice(0, 100));
  throw new BlockError("EACCES", `'${image}' names the ${role} ${shown}: ${fault}`, { path: image });
}

function refusal(image: string, name: string, path: string, role: string): BlockError {
  const fault = isForbidden(path)
    ? "which is no file that could be an image"
    : `which is '${path}', outside of the image's own folder; ` +
      `allow it with --allow-backing=${dirname(path)} if you trust the image`;
  return new BlockError("EACCES", `'${image}' names the ${role} '${name}', ${fault}`, { path });
}

function realPath(path: string): Co<string> {
  return hostOperation<string>(
    { message: `Could not open '${path}'`, operation: "open", path },
    () => fs.realpathSync.native(path),
    (done) => fs.realpath.native(path, done),
  );
}
