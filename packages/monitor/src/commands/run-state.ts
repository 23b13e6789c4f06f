/** Stopping and resuming the machine that is served: `stop`, `cont`, `query-status`. */
import { assert, type Co } from "@spindle/base";
import { type Command, type CommandContext, command } from "../command.ts";
import type { MachineControl } from "../machine.ts";

const FOR_MACHINE = { forMachine: true };

function machineOf({ machine }: CommandContext): MachineControl {
  assert(machine !== undefined, "a command for machines where there is none");
  return machine;
}

export const runStateCommands: readonly Command[] = [
  command(
    "stop",
    {},
    function* (context): Co<void> {
      machineOf(context).stop();
    },
    FOR_MACHINE,
  ),
  command(
    "cont",
    {},
    function* (context): Co<void> {
      machineOf(context).resume();
    },
    FOR_MACHINE,
  ),
  command(
    "query-status",
    {},
    function* (context) {
      const { state } = machineOf(context);
      return { running: state === "running", singlestep: false, status: state };
    },
    FOR_MACHINE,
  ),
];
