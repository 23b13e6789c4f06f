/** Questions about the monitor itself, and its end. */
import type { Co } from "@spindle/base";
import { type Command, command } from "../command.ts";
import { interpretLine } from "../hmp-interpreter.ts";

export const processCommands: readonly Command[] = [
  command("query-version", {}, function* ({ version }) {
    const { major, minor, micro } = version;
    return { qemu: { major, minor, micro }, package: version.package };
  }),
  command("query-commands", {}, function* ({ commandNames }) {
    return commandNames.map((name) => ({ name }));
  }),
  command(
    "human-monitor-command",
    { "command-line": "string", "cpu-index": "integer?" },
    function* (context, values): Co<string> {
      return yield* interpretLine(context, values["command-line"]);
    },
  ),
  command("quit", {}, function* (context): Co<void> {
    yield* context.quit();
  }),
];
