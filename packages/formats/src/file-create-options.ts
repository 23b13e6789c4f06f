/** Create options that are about the file in which an image stands, whatever its format. */
import { BlockError, parseSize } from "@spindle/base";

export const FILE_CREATE_OPTIONS: readonly string[] = ["extent_size_hint", "nocow"];

/**
 * The size of extents is a hint for file systems, which is not passed on.
 * @throws {BlockError} EINVAL or EFBIG when it is no size, ENOTSUP when copy-on-write is to be switched off.
 */
export function checkFileOptions(options: Readonly<Record<string, string>>): void {
  parseSize(options["extent_size_hint"] ?? "0");
  const { nocow = "off" } = options;
  if (nocow !== "off") throw new BlockError("ENOTSUP", `nocow=${nocow} is not supported`);
}
