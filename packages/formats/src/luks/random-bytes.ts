/** Random bytes for keys and salts, from the host's source. */
import type { RandomSource } from "@spindle/base";

export function randomBytes(random: RandomSource, length: number): Uint8Array {
  const bytes = new Uint8Array(Math.ceil(length / 4) * 4);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += 4) view.setUint32(at, random.u32());
  return bytes.subarray(0, length);
}
