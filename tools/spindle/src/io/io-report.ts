/** The lines in which qemu-io reports sizes, times, requests and bytes. */

const UNITS = [
  ["EiB", 2 ** 60],
  ["PiB", 2 ** 50],
  ["TiB", 2 ** 40],
  ["GiB", 2 ** 30],
  ["MiB", 2 ** 20],
  ["KiB", 2 ** 10],
] as const;

/** A number of bytes with three decimals, which are left out where they are zeros: `64 KiB`, `1.438 MiB`. */
export function ioSizeText(bytes: number): string {
  const [name, unit] = UNITS.find(([, size]) => bytes >= size) ?? ["bytes", 1];
  const text =
    unit === 1 ? bytes.toFixed(6) : Number.isSafeInteger(bytes) ? exact(bytes, unit) : (bytes / unit).toFixed(3);
  const zeros = text.indexOf(".000");
  return `${zeros < 0 ? text : text.slice(0, zeros)} ${name}`;
}

/** Three decimals, where the half is rounded to the even neighbour, as the C library does. */
function exact(bytes: number, unit: number): string {
  const scaled = BigInt(bytes) * 1000n;
  const divisor = BigInt(unit);
  const whole = scaled / divisor;
  const twice = 2n * (scaled % divisor);
  const up = twice > divisor || (twice === divisor && whole % 2n === 1n);
  const digits = String(up ? whole + 1n : whole).padStart(4, "0");
  return `${digits.slice(0, -3)}.${digits.slice(-3)}`;
}

/** One request that has been done. */
export interface RequestReport {
  /** `read`, `wrote` or `discard`. */
  readonly verb: string;
  readonly offset: number;
  readonly length: number;
  readonly milliseconds: number;
  /** One line for programs instead of two for people. */
  readonly terse: boolean;
}

export function requestLines({ verb, offset, length, milliseconds, terse }: RequestReport): string {
  const seconds = milliseconds / 1000;
  const rate = length / seconds;
  const operations = 1 / seconds;
  if (terse) return `${length},1,${clock(seconds)},${rate.toFixed(3)},${operations.toFixed(3)}\n`;
  const time = seconds < 1 ? `${secondsText(seconds)} sec` : clock(seconds);
  const rates = `${ioSizeText(rate)}/sec and ${operations.toFixed(4)} ops/sec`;
  return (
    `${verb} ${length}/${length} bytes at offset ${offset}\n` + `${ioSizeText(length)}, 1 ops; ${time} (${rates})\n`
  );
}

/** Hours, minutes and seconds. */
function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  const minutes = Math.floor(whole / 60) % 60;
  const rest = (whole % 60) + seconds - whole;
  return `${Math.floor(whole / 3600)}:${String(minutes).padStart(2, "0")}:${secondsText(rest)}`;
}

function secondsText(seconds: number): string {
  return seconds.toFixed(2).padStart(5, "0");
}

const DUMP_WIDTH = 16;

/** Bytes in hexadecimal and as letters and digits, sixteen a line. @param offset where the first one stands */
export function dumpLines(bytes: Uint8Array, offset: number): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += DUMP_WIDTH) {
    const row = [...bytes.subarray(at, at + DUMP_WIDTH)];
    const numbers = row.map((byte) => `${byte.toString(16).padStart(2, "0")} `).join("");
    const letters = row.map((byte) => String.fromCharCode(byte).replace(/[^0-9A-Za-z]/, ".")).join("");
    text += `${(offset + at).toString(16).padStart(8, "0")}:  ${numbers} ${letters}\n`;
  }
  return text;
}
