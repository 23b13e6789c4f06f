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

export interface HostBackingPolicyOptions {
  /** Folders whose files, and those below, may be backing files too. */
  readonly allowedFolders?: readonly string[];
}

/** Never storage, whatever folder is allowed: opening them does something, or shows other processes. */
const FORBIDDEN_ROOTS = ["/dev", "/proc", "/sys"] as const;

/** A protocol before a colon, as QEMU takes it; a single letter could be a drive, which this host has not. */
const PROTOCOL = /^[a-z][a-z0-9+.-]*:/i;

/** Longer names are in no image that QEMU makes. */
const NAME_LENGTH_MAX = 4096;

/** The policy for images in files of this host. */
export function hostBackingPolicy(options: HostBackingPolicyOptions = {}): BackingPolicy {
  const { allowedFolders = [] } = options;
  return {
    *resolve(image: string, backing: BackingFile, root: string): Co<string> {
      checkName(image, backing.filename);
      const named = isAbsolute(backing.filename)
        ? backing.filename
        : resolvePath(dirname(yield* realPath(image)), backing.filename);
      const path = yield* realPath(named);
      const folders = [dirname(yield* realPath(root))];
      for (const folder of allowedFolders) folders.push(yield* realPath(folder));
      const forbidden = FORBIDDEN_ROOTS.some((folder) => isInside(folder, path));
      if (forbidden || !folders.some((folder) => isInside(folder, path))) throw refusal(image, backing.filename, path);
      return path;
    },
  };
}

/**
 * Whether `path` lies in `folder` or below it, by whole components: `/images-secret` is not in `/images`.
 * Both are absolute and without symbolic links.
 */
function isInside(folder: string, path: string): boolean {
  const way = relative(folder, path);
  return way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}

function checkName(image: string, name: string): void {
  const fault = name.includes("\0")
    ? "it contains a NUL"
    : name === ""
      ? "it is empty"
      : name.length > NAME_LENGTH_MAX
        ? "it is too long"
        : PROTOCOL.test(name)
          ? "only files of this host can be backing files that an image names"
          : undefined;
  if (fault === undefined) return;
  const shown = JSON.stringify(name.slice(0, 100));
  throw new BlockError("EACCES", `'${image}' names the backing file ${shown}: ${fault}`, { path: image });
}

function refusal(image: string, name: string, path: string): BlockError {
  const message =
    `'${image}' names the backing file '${name}', which is '${path}', outside of the image's own folder; ` +
    `allow it with --allow-backing=${dirname(path)} if you trust the image`;
  return new BlockError("EACCES", message, { path });
}

function realPath(path: string): Co<string> {
  return hostOperation<string>(
    { message: `Could not open '${path}'`, operation: "open", path },
    () => fs.realpathSync.native(path),
    (done) => fs.realpath.native(path, done),
  );
}
