/** UTF-8 without a host's TextDecoder: names inside images are a few bytes long. */

/** Decodes; malformed sequences become U+FFFD. */
export function decodeUtf8(bytes: Uint8Array): string {
  let text = "";
  let index = 0;
  while (index < bytes.length) {
    const lead = bytes[index] as number;
    const length = sequenceLength(lead);
    const point = length === 0 ? -1 : decodePoint(bytes, index, length);
    text += String.fromCodePoint(point < 0 ? 0xfffd : point);
    index += point < 0 ? 1 : length;
  }
  return text;
}

export function encodeUtf8(text: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of text) {
    const point = character.codePointAt(0) as number;
    if (point < 0x80) bytes.push(point);
    else if (point < 0x800) bytes.push(0xc0 | (point >> 6), 0x80 | (point & 0x3f));
    else if (point < 0x10000) bytes.push(0xe0 | (point >> 12), 0x80 | ((point >> 6) & 0x3f), 0x80 | (point & 0x3f));
    else
      bytes.push(
        0xf0 | (point >> 18),
        0x80 | ((point >> 12) & 0x3f),
        0x80 | ((point >> 6) & 0x3f),
        0x80 | (point & 0x3f),
      );
  }
  return Uint8Array.from(bytes);
}

function sequenceLength(lead: number): number {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead < 0xe0) return 2;
  if (lead >= 0xe0 && lead < 0xf0) return 3;
  return lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
}

const SMALLEST_POINT = [0, 0, 0x80, 0x800, 0x10000];

function decodePoint(bytes: Uint8Array, start: number, length: number): number {
  const lead = bytes[start] as number;
  if (length === 1) return lead;
  let point = lead & (0x7f >> length);
  for (let index = start + 1; index < start + length; index++) {
    const next = bytes[index];
    if (next === undefined || (next & 0xc0) !== 0x80) return -1;
    point = (point << 6) | (next & 0x3f);
  }
  const surrogate = point >= 0xd800 && point < 0xe000;
  return point < (SMALLEST_POINT[length] as number) || point > 0x10ffff || surrogate ? -1 : point;
}
