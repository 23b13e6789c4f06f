/** `write`, `writev` and `aio_write`. */
import { readFileSync } from "node:fs";
import { errnoText } from "@spindle/base";
import type { IoVector } from "@spindle/block";
import { CommandFailure, CommandMisuse, type ImageCommand } from "./io-command.ts";
import { type IoImage, patternVector, repeated } from "./io-image.ts";
import { bufferLengths, ioPattern, ioSize, REQUEST_BYTES_MAX } from "./io-number.ts";
import type { IoShell } from "./io-shell.ts";
import { checkSectors } from "./read-commands.ts";
import { failureCode, timed } from "./request.ts";

const PATTERN_DEFAULT = 0xcd;

interface WriteRequest {
  readonly offset: number;
  readonly length: number;
  readonly quiet: boolean;
  readonly terse: boolean;
  /** What stands before a failure. */
  readonly verb: string;
  readonly write: (image: IoImage) => Promise<void>;
}

/** @returns whether it was written. */
async function writeAndReport(shell: IoShell, image: IoImage, request: WriteRequest): Promise<boolean> {
  const { offset, length, quiet, terse, verb, write } = request;
  try {
    const milliseconds = await timed(() => write(image));
    if (!quiet) shell.report({ verb: "wrote", offset, length, milliseconds, terse });
    return true;
  } catch (error) {
    shell.print(`${verb} failed: ${errnoText(failureCode(error))}\n`);
    return false;
  }
}

export const write: ImageCommand = {
  name: "write",
  shortName: "w",
  synopsis: "[-bcCfnquz] [-P pattern | -s source_file] off len",
  summary: "write a range of the disk",
  details: [
    "Writes bytes of 0xcd, unless it is told what else.",
    "-b  write the state of a machine, which stands behind the disk",
    "-c  write compressed clusters",
    "-C  report in one line for programs",
    "-f  the write is durable when it completes",
    "-n  with -z, fail rather than store zeros one by one",
    "-P  write this byte",
    "-q  report nothing",
    "-s  write what this file holds, over and over",
    "-u  with -z, give the space back",
    "-z  write zeros without storing them",
  ],
  leastArguments: 2,
  mostArguments: Number.POSITIVE_INFINITY,
  letters: "bcCfnpP:qs:uz",
  needs: "writable image",
  async run({ options, operands, shell }, image) {
    const given = new Map(options.map(([letter, value]) => [letter, letter === "P" ? ioPattern(value) : value]));
    if (operands.length !== 2) throw new CommandMisuse();
    checkCombination((letter) => given.has(letter));
    const [offsetText = "", lengthText = ""] = operands;
    const offset = ioSize(offsetText);
    const length = ioSize(lengthText);
    if (length > REQUEST_BYTES_MAX && !given.has("n"))
      throw new CommandFailure(`length cannot exceed ${REQUEST_BYTES_MAX} without -n, given ${lengthText}`);
    if (given.has("b") || given.has("c")) checkSectors(offset, length);
    const ok = await writeAndReport(shell, image, {
      offset,
      length,
      quiet: given.has("q"),
      terse: given.has("C"),
      verb: "write",
      write: writer(given, offset, length),
    });
    if (!ok) throw new CommandFailure("");
  },
};

/** @throws {CommandFailure} when options contradict each other. */
function checkCombination(has: (letter: string) => boolean): void {
  if (has("b") && has("z")) throw new CommandFailure("-b and -z cannot be specified at the same time");
  if (has("f") && (has("b") || has("c")))
    throw new CommandFailure("-f and -b or -c cannot be specified at the same time");
  if (has("n") && !has("z")) throw new CommandFailure("-n requires -z to be specified");
  if (has("u") && !has("z")) throw new CommandFailure("-u requires -z to be specified");
  if (["z", "P", "s"].filter(has).length > 1)
    throw new CommandFailure("Only one of -z, -P, and -s can be specified at the same time");
}

function writer(
  given: ReadonlyMap<string, string | number>,
  offset: number,
  length: number,
): (image: IoImage) => Promise<void> {
  const fua = given.has("f");
  if (given.has("z")) {
    const flags = { fua, mayUnmap: given.has("u"), noFallback: given.has("n") };
    return (image) => image.writeZeroes(offset, length, flags);
  }
  const source = given.get("s");
  const vector =
    typeof source === "string"
      ? fileVector(source, length)
      : patternVector(length, (given.get("P") as number | undefined) ?? PATTERN_DEFAULT);
  if (given.has("b")) return (image) => image.writeState(offset, vector);
  return given.has("c")
    ? (image) => image.writeCompressed(offset, vector)
    : (image) => image.write(offset, vector, fua);
}

/** What a file holds, over and over. @throws {CommandFailure} when it cannot be read, or is empty. */
function fileVector(filename: string, length: number): IoVector {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(filename);
  } catch (error) {
    const { code } = error as { code?: string };
    const reason =
      code === "ENOENT" ? errnoText("ENOENT") : code === "EISDIR" ? errnoText("EISDIR") : errnoText("EACCES");
    throw new CommandFailure(`${filename}: ${reason}`, "error");
  }
  if (bytes.length === 0) throw new CommandFailure(`${filename}: file is empty`, "error");
  return repeated(bytes, length);
}

export const writev: ImageCommand = {
  name: "writev",
  synopsis: "[-Cfq] [-P pattern] off len [len..]",
  summary: "write a range of the disk",
  details: [
    "Every length is a buffer of its own.",
    "-C  report in one line for programs",
    "-f  the write is durable when it completes",
    "-P  write this byte instead of 0xcd",
    "-q  report nothing",
  ],
  leastArguments: 2,
  mostArguments: Number.POSITIVE_INFINITY,
  letters: "CfqP:",
  needs: "writable image",
  async run({ options, operands, shell }, image) {
    const request = { ...vectoredRequest(options, operands), verb: "writev" };
    if (!(await writeAndReport(shell, image, request))) throw new CommandFailure("");
  },
};

function vectoredRequest(
  options: readonly (readonly [string, string])[],
  operands: readonly string[],
): Omit<WriteRequest, "verb"> {
  const pattern = options.filter(([letter]) => letter === "P").map(([, value]) => ioPattern(value));
  const has = (wanted: string): boolean => options.some(([letter]) => letter === wanted);
  const [offsetText = "", ...lengthTexts] = operands;
  if (lengthTexts.length === 0) throw new CommandMisuse();
  const offset = ioSize(offsetText);
  const length = bufferLengths(lengthTexts).reduce((sum, one) => sum + one, 0);
  const vector = patternVector(length, pattern.at(-1) ?? PATTERN_DEFAULT);
  const write = (image: IoImage): Promise<void> => image.write(offset, vector, has("f"));
  return { offset, length, quiet: has("q"), terse: has("C"), write };
}

export const aioWrite: ImageCommand = {
  name: "aio_write",
  synopsis: "[-Cfiquz] [-P pattern] off len [len..]",
  summary: "start to write a range, and go on",
  details: [
    "Returns when the write has been started; 'aio_flush' waits for it. What goes wrong then is printed and is no failure.",
    "-C  report in one line for programs",
    "-f  the write is durable when it completes",
    "-i  count an invalid request and write nothing",
    "-P  write this byte instead of 0xcd",
    "-q  report nothing",
    "-u  with -z, give the space back",
    "-z  write zeros without storing them",
  ],
  leastArguments: 2,
  mostArguments: Number.POSITIVE_INFINITY,
  letters: "CfiqP:uz",
  needs: "writable image",
  run({ options, operands, shell }, image) {
    const has = (wanted: string): boolean => options.some(([letter]) => letter === wanted);
    if (has("i")) return shell.print("injecting invalid write request\n");
    if (operands.length < 2) throw new CommandMisuse();
    if (has("z") && operands.length !== 2) throw new CommandFailure("-z supports only a single length parameter");
    if (has("u") && !has("z")) throw new CommandFailure("-u requires -z to be specified");
    const request = has("z") ? zeroRequest(has, operands) : vectoredRequest(options, operands);
    image.start(writeAndReport(shell, image, { ...request, verb: "aio_write" }).then(() => {}));
  },
};

function zeroRequest(
  has: (letter: string) => boolean,
  [offsetText = "", lengthText = ""]: readonly string[],
): Omit<WriteRequest, "verb"> {
  const offset = ioSize(offsetText);
  const length = ioSize(lengthText);
  const flags = { fua: has("f"), mayUnmap: has("u"), noFallback: false };
  const write = (image: IoImage): Promise<void> => image.writeZeroes(offset, length, flags);
  return { offset, length, quiet: has("q"), terse: has("C"), write };
}
