/** `break`, `remove_break`, `resume` and `wait_break`: stop requests at events of a `blkdebug` node, and let them go on. */
import { errnoText, isBlockError } from "@spindle/base";
import type { BreakpointListener } from "@spindle/block";
import { CommandFailure, type ImageCommand } from "./io-command.ts";
import type { IoShell } from "./io-shell.ts";

const UNSUPPORTED = errnoText("ENOTSUP");
const ABSENT = errnoText("ENOENT");

/** Says what happens, in the words of QEMU's driver. */
function teller(shell: IoShell): BreakpointListener {
  return {
    stopped: (tag) => shell.print(`blkdebug: Suspended request '${tag}'\n`),
    resumed: (tag) => shell.print(`blkdebug: Resuming request '${tag}'\n`),
  };
}

export const breakRequest: ImageCommand = {
  name: "break",
  synopsis: "event tag",
  summary: "stop the next request at an event",
  leastArguments: 2,
  needs: "image",
  run({ operands: [event = "", tag = ""], shell }, { breakpoints }) {
    const failure = (reason: string): CommandFailure => new CommandFailure(`Could not set breakpoint: ${reason}`);
    if (breakpoints === undefined) throw failure(UNSUPPORTED);
    try {
      breakpoints.set(event, tag, teller(shell));
    } catch (error) {
      throw isBlockError(error) ? failure(errnoText(error.code)) : error;
    }
  },
};

export const removeBreak: ImageCommand = {
  name: "remove_break",
  synopsis: "tag",
  summary: "take a breakpoint away",
  leastArguments: 1,
  needs: "image",
  run({ operands: [tag = ""] }, image) {
    const { breakpoints } = image;
    const found = breakpoints?.remove(tag) === true;
    image.wake();
    if (!found)
      throw new CommandFailure(
        `Could not remove breakpoint ${tag}: ${breakpoints === undefined ? UNSUPPORTED : ABSENT}`,
      );
  },
};

export const resume: ImageCommand = {
  name: "resume",
  synopsis: "tag",
  summary: "let a stopped request go on",
  leastArguments: 1,
  needs: "image",
  run({ operands: [tag = ""] }, image) {
    const { breakpoints } = image;
    const found = breakpoints?.resume(tag) === true;
    image.wake();
    if (!found)
      throw new CommandFailure(`Could not resume request: ${breakpoints === undefined ? UNSUPPORTED : ABSENT}`);
  },
};

export const waitBreak: ImageCommand = {
  name: "wait_break",
  synopsis: "tag",
  summary: "wait until a request has stopped",
  leastArguments: 1,
  needs: "image",
  run: ({ operands: [tag = ""] }, image) => image.waitForBreak(tag),
};
