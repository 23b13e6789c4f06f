/** `read`, `readv` and `aio_read`. */
import { errnoText, SECTOR_SIZE } from "@spindle/base";
import { CommandFailure, CommandMisuse, type ImageCommand } from "./io-command.ts";
import type { IoImage } from "./io-image.ts";
import { bufferLengths, ioPattern, ioSize, REQUEST_BYTES_MAX } from "./io-number.ts";
import { dumpLines } from "./io-report.ts";
import type { IoShell } from "./io-shell.ts";
import { failureCode, timed } from "./request.ts";

interface ReadRequest {
  readonly offset: number;
  readonly length: number;
  /** Part of what is read has to be this byte everywhere. */
  readonly expected?: { readonly pattern: number; readonly start: number; readonly length: number };
  readonly dump: boolean;
  readonly quiet: boolean;
  readonly terse: boolean;
  /** What stands before a failure. */
  readonly verb: string;
  /** What is read is no part of the disk, but the state of a machine. */
  readonly isState?: boolean;
}

/** Reads, verifies, dumps and reports. @returns whether all was as it was expected. */
async function readAndReport(shell: IoShell, image: IoImage, request: ReadRequest): Promise<boolean> {
  const { offset, length, expected, dump, quiet, terse, verb, isState = false } = request;
  const readAll = (seen: (bytes: Uint8Array, at: number) => void): Promise<void> =>
    isState ? image.readState(offset, length, seen) : image.read(offset, length, seen);
  let matches = true;
  const verify = (bytes: Uint8Array, at: number): void => {
    if (expected === undefined) return;
    const start = Math.max(0, offset + expected.start - at);
    const end = offset + expected.start + expected.length - at;
    if (!isPattern(bytes.subarray(start, Math.max(start, end)), expected.pattern)) matches = false;
  };
  let milliseconds: number;
  try {
    milliseconds = await timed(() => readAll(verify));
  } catch (error) {
    shell.print(`${verb} failed: ${errnoText(failureCode(error))}\n`);
    return false;
  }
  if (expected !== undefined && !matches)
    shell.print(`Pattern verification failed at offset ${offset + expected.start}, ${expected.length} bytes\n`);
  if (quiet) return matches;
  // Read a second time, so that a long range need not be kept.
  if (dump) await readAll((bytes, at) => shell.print(dumpLines(bytes, at)));
  shell.report({ verb: "read", offset, length, milliseconds, terse });
  return matches;
}

/** Whether every byte is this one: where the first is, and each is as the one before it. */
function isPattern(bytes: Uint8Array, pattern: number): boolean {
  return bytes.length === 0 || (bytes[0] === pattern && Buffer.compare(bytes.subarray(1), bytes.subarray(0, -1)) === 0);
}

export const read: ImageCommand = {
  name: "read",
  shortName: "r",
  synopsis: "[-abCqv] [-P pattern [-s off] [-l len]] off len",
  summary: "read a range of the disk",
  details: [
    "-b  read the state of a machine, which stands behind the disk",
    "-C  report in one line for programs",
    "-l  verify so many bytes (with -P)",
    "-P  verify that every byte is this one",
    "-q  report nothing",
    "-s  verify from here on, counted from the offset (with -P)",
    "-v  show the bytes",
  ],
  leastArguments: 2,
  mostArguments: Number.POSITIVE_INFINITY,
  letters: "bCl:pP:qs:v",
  needs: "image",
  async run({ options, operands, shell }, image) {
    const given = new Map(options.map(([letter, value]) => [letter, parsed(letter, value)]));
    const [offsetText = "", lengthText = ""] = operands;
    if (operands.length !== 2) throw new CommandMisuse();
    const offset = ioSize(offsetText);
    const length = ioSize(lengthText);
    if (length > REQUEST_BYTES_MAX)
      throw new CommandFailure(`length cannot exceed ${REQUEST_BYTES_MAX}, given ${lengthText}`);
    if (!given.has("P") && (given.has("l") || given.has("s"))) throw new CommandMisuse();
    const start = given.get("s") ?? 0;
    const count = given.get("l") ?? length - start;
    if (count < 0 || start + count > length)
      throw new CommandFailure("pattern verification range exceeds end of read data");
    if (given.has("b")) checkSectors(offset, length);
    const pattern = given.get("P");
    const ok = await readAndReport(shell, image, {
      offset,
      length,
      ...(pattern === undefined ? {} : { expected: { pattern, start, length: count } }),
      dump: given.has("v"),
      quiet: given.has("q"),
      terse: given.has("C"),
      verb: "read",
      isState: given.has("b"),
    });
    if (!ok) throw new CommandFailure("");
  },
};

function parsed(letter: string, value: string): number {
  if (letter === "P") return ioPattern(value);
  return letter === "l" || letter === "s" ? ioSize(value) : 1;
}

/** @throws {CommandFailure} when one of them is not a whole number of sectors. */
export function checkSectors(offset: number, length: number): void {
  if (offset % SECTOR_SIZE !== 0) throw new CommandFailure(`${offset} is not a sector-aligned value for 'offset'`);
  if (length % SECTOR_SIZE !== 0) throw new CommandFailure(`${length} is not a sector-aligned value for 'count'`);
}

/** The request of `readv` and `aio_read`. */
function vectoredRequest(
  options: readonly (readonly [string, string])[],
  operands: readonly string[],
): Omit<ReadRequest, "verb"> {
  const patterns = options.filter(([letter]) => letter === "P").map(([, value]) => ioPattern(value));
  const has = (wanted: string): boolean => options.some(([letter]) => letter === wanted);
  const [offsetText = "", ...lengthTexts] = operands;
  if (lengthTexts.length === 0) throw new CommandMisuse();
  const offset = ioSize(offsetText);
  const length = bufferLengths(lengthTexts).reduce((sum, one) => sum + one, 0);
  const pattern = patterns.at(-1);
  return {
    offset,
    length,
    ...(pattern === undefined ? {} : { expected: { pattern, start: 0, length } }),
    dump: has("v"),
    quiet: has("q"),
    terse: has("C"),
  };
}

export const readv: ImageCommand = {
  name: "readv",
  synopsis: "[-Cqv] [-P pattern] off len [len..]",
  summary: "read a range of the disk",
  details: [
    "Every length is a buffer of its own.",
    "-C  report in one line for programs",
    "-P  verify that every byte is this one",
    "-q  report nothing",
    "-v  show the bytes",
  ],
  leastArguments: 2,
  mostArguments: Number.POSITIVE_INFINITY,
  letters: "CP:qv",
  needs: "image",
  async run({ options, operands, shell }, image) {
    const request = { ...vectoredRequest(options, operands), verb: "readv" };
    if (!(await readAndReport(shell, image, request))) throw new CommandFailure("");
  },
};

export const aioRead: ImageCommand = {
  name: "aio_read",
  synopsis: "[-Ciqv] [-P pattern] off len [len..]",
  summary: "start to read a range, and go on",
  details: [
    "Returns when the read has been started; 'aio_flush' waits for it. What goes wrong then is printed and is no failure.",
    "-C  report in one line for programs",
    "-i  count an invalid request and read nothing",
    "-P  verify that every byte is this one",
    "-q  report nothing",
    "-v  show the bytes",
  ],
  leastArguments: 2,
  mostArguments: Number.POSITIVE_INFINITY,
  letters: "CP:iqv",
  needs: "image",
  run({ options, operands, shell }, image) {
    if (options.some(([letter]) => letter === "i")) return shell.print("injecting invalid read request\n");
    const request = { ...vectoredRequest(options, operands), verb: "readv" };
    image.start(readAndReport(shell, image, request).then(() => {}));
  },
};
