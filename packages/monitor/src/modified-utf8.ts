/**
 * UTF-8 as QEMU's JSON code understands it (util/unicode.c): NUL may be the two bytes C0 80, and surrogates,
 * noncharacters and longer forms than necessary are no characters.
 */
import { TextBuilder } from "./text-builder.ts";

/** One character: its code point, or -1 for bytes that are none, and how many bytes it takes. */
interface Decoded {
  readonly point: number;
  readonly length: number;
}

/** The smallest code point that needs a sequence of so many bytes. */
const SMALLEST_POINT = [0, 0, 0x80, 0x800, 0x10000, 0x200000, 0x4000000];

/** Whether a JSON string may contain this code point. */
export function isCharacter(point: number): boolean {
  if (point < 0 || point > 0x10ffff) return false;
  if (point >= 0xd800 && point <= 0xdfff) return false;
  return !(point >= 0xfdd0 && point <= 0xfdef) && point % 0x10000 < 0xfffe;
}

/** Decodes bytes, with U+FFFD where there is no character. */
export function decodeLeniently(bytes: Uint8Array): string {
  const builder = new TextBuilder(bytes.length);
  for (let index = 0; index < bytes.length; ) {
    const { point, length } = decodeOne(bytes, index);
    builder.add(point < 0 ? 0xfffd : point);
    index += length;
  }
  return builder.text();
}

/** The character that begins at `index`. */
export function decodeOne(bytes: Uint8Array, index: number): Decoded {
  const lead = bytes[index] as number;
  if (lead < 0x80) return { point: lead, length: 1 };
  if (lead >= 0xfe || lead < 0xc0) return { point: -1, length: 1 };
  // The leading ones of the first byte count the bytes.
  const wanted = Math.clz32(~(lead << 24));
  let point = lead & (0x7f >> wanted);
  for (let position = 1; position < wanted; position++) {
    const next = bytes[index + position] ?? 0;
    if ((next & 0xc0) !== 0x80) return { point: -1, length: position };
    point = (point << 6) | (next & 0x3f);
  }
  const shortest = point >= (SMALLEST_POINT[wanted] as number) || (point === 0 && wanted === 2);
  return { point: shortest && isCharacter(point) ? point : -1, length: wanted };
}
