/** Bytes to write in tests. */
import type { SeededRandom } from "@spindle/base";

/** Bytes without zeros among them, so that what was lost or zeroed by mistake is seen. */
export function randomBytes(random: SeededRandom, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let word = 0;
  for (let index = 0; index < length; index++) {
    if (index % 4 === 0) word = random.u32();
    const byte = (word >>> ((index % 4) * 8)) & 0xff;
    bytes[index] = byte === 0 ? 0xa5 : byte;
  }
  return bytes;
}

/** Cuts bytes into a random number of pieces, as a guest's scattered pages are. */
export function randomPieces(random: SeededRandom, bytes: Uint8Array, unit: number): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let position = 0; position < bytes.length; ) {
    const units = Math.floor((bytes.length - position) / unit);
    const take = pieces.length === 7 || units <= 1 ? bytes.length - position : unit * (1 + random.below(units));
    pieces.push(bytes.subarray(position, position + take));
    position += take;
  }
  return pieces;
}
