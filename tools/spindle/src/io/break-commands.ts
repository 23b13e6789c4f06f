/**
 * `break`, `remove_break`, `resume` and `wait_break` stop requests at events inside of a driver. No driver here has such
 * events, and what QEMU says of such drivers is said of all.
 */
import { errnoText } from "@spindle/jobs";
import { CommandFailure, type ImageCommand } from "./io-command.ts";

const REASON = errnoText("ENOTSUP");

function refusal(name: string, synopsis: string, summary: string, say: (tag: string) => string): ImageCommand {
  const count = synopsis.split(" ").length;
  return {
    name,
    synopsis,
    summary: `${summary}; not supported by any driver`,
    leastArguments: count,
    needs: "image",
    run({ operands: [tag = ""] }) {
      throw new CommandFailure(`${say(tag)}: ${REASON}`);
    },
  };
}

export const breakRequest: ImageCommand = refusal(
  "break",
  "event tag",
  "stop the next request at an event",
  () => "Could not set breakpoint",
);
export const removeBreak: ImageCommand = refusal(
  "remove_break",
  "tag",
  "take a breakpoint away",
  (tag) => `Could not remove breakpoint ${tag}`,
);
export const resume: ImageCommand = refusal(
  "resume",
  "tag",
  "let a stopped request go on",
  () => "Could not resume request",
);
export const waitBreak: ImageCommand = refusal(
  "wait_break",
  "tag",
  "wait until a request has stopped",
  () => "Could not wait for request",
);
