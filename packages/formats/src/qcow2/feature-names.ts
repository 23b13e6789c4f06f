/** The names of features that a header carries for programs that do not know their bits. */
import { encodeUtf8 } from "@spindle/base";
import { EXTENSION_FEATURE_NAMES } from "./header.ts";
import type { HeaderExtension } from "./header-extensions.ts";

/** Type (0 incompatible, 1 compatible, 2 autoclear), bit, name. */
const FEATURE_NAMES: readonly (readonly [number, number, string])[] = [
  [0, 0, "dirty bit"],
  [0, 1, "corrupt bit"],
  [0, 2, "external data file"],
  [0, 3, "compression type"],
  [0, 4, "extended L2 entries"],
  [1, 0, "lazy refcounts"],
  [2, 0, "bitmaps"],
  [2, 1, "raw external data"],
];
const FEATURE_NAME_BYTES = 48;
/** QEMU writes the names, which nobody needs, only where this much room is left in the header's cluster. */
const ROOM_LEAST = 4096;

/** @param room bytes that are left in the header's cluster; @returns nothing when they are too few */
export function featureNamesExtension(room: number): HeaderExtension[] {
  if (room < ROOM_LEAST) return [];
  const data = new Uint8Array(FEATURE_NAMES.length * FEATURE_NAME_BYTES);
  FEATURE_NAMES.forEach(([type, bit, name], index) => {
    data[index * FEATURE_NAME_BYTES] = type;
    data[index * FEATURE_NAME_BYTES + 1] = bit;
    data.set(encodeUtf8(name), index * FEATURE_NAME_BYTES + 2);
  });
  return [{ type: EXTENSION_FEATURE_NAMES, data }];
}
