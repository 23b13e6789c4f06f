/** `discard`, `flush`, `aio_flush` and `truncate`. */
import { errnoText, isBlockError } from "@spindle/base";
import type { Preallocation } from "@spindle/block";
import { CommandFailure, CommandMisuse, type ImageCommand } from "./io-command.ts";
import { ioSize, REQUEST_BYTES_MAX } from "./io-number.ts";
import { failureCode, timed } from "./request.ts";

export const discard: ImageCommand = {
  name: "discard",
  shortName: "d",
  synopsis: "[-Cq] off len",
  summary: "give the space of a range back",
  details: ["-C  report in one line for programs", "-q  report nothing"],
  leastArguments: 2,
  mostArguments: Number.POSITIVE_INFINITY,
  letters: "Cq",
  needs: "writable image",
  async run({ options, operands, shell }, image) {
    const has = (wanted: string): boolean => options.some(([letter]) => letter === wanted);
    const [offsetText = "", lengthText = ""] = operands;
    if (operands.length !== 2) throw new CommandMisuse();
    const offset = ioSize(offsetText);
    const length = ioSize(lengthText);
    if (length > REQUEST_BYTES_MAX)
      throw new CommandFailure(`length cannot exceed ${REQUEST_BYTES_MAX}, given ${lengthText}`);
    try {
      const milliseconds = await timed(() => image.discard(offset, length));
      if (!has("q")) shell.report({ verb: "discard", offset, length, milliseconds, terse: has("C") });
    } catch (error) {
      throw new CommandFailure(`discard failed: ${errnoText(failureCode(error))}`);
    }
  },
};

export const flush: ImageCommand = {
  name: "flush",
  shortName: "f",
  synopsis: "",
  summary: "make everything that was written durable",
  needs: "image",
  async run(_call, image) {
    try {
      await image.flush();
    } catch (error) {
      failureCode(error);
      throw new CommandFailure("");
    }
  },
};

export const aioFlush: ImageCommand = {
  name: "aio_flush",
  synopsis: "",
  summary: "wait for all requests that were started",
  needs: "image",
  run: (_call, image) => image.drain(),
};

const PREALLOCATION_MODES: readonly Preallocation[] = ["off", "metadata", "falloc", "full"];

export const truncate: ImageCommand = {
  name: "truncate",
  shortName: "t",
  synopsis: "[-m prealloc_mode] off",
  summary: "make the disk so long",
  leastArguments: 1,
  mostArguments: 3,
  letters: "m:",
  needs: "writable image",
  async run({ options, operands }, image) {
    let preallocation: Preallocation = "off";
    for (const [, mode] of options) {
      const known = PREALLOCATION_MODES.find((one) => one === mode);
      if (known === undefined) throw new CommandFailure(`Invalid preallocation mode '${mode}'`, "report");
      preallocation = known;
    }
    const [lengthText] = operands;
    if (lengthText === undefined) throw new CommandMisuse();
    const length = ioSize(lengthText);
    if (!Number.isSafeInteger(length)) throw new CommandFailure("The new size is too large", "report");
    try {
      await image.truncate(length, preallocation);
    } catch (error) {
      if (!isBlockError(error)) throw error;
      throw new CommandFailure(`${error.message}`, "report");
    }
  },
};
