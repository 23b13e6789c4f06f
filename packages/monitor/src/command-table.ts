/** All commands. To add one of QEMU's others, describe it in `commands/` and list it here. */
import type { Command } from "./command.ts";
import { blockJobCommands } from "./commands/block-job.ts";
import { blockStream } from "./commands/block-stream.ts";
import { blockdevCommands } from "./commands/blockdev.ts";
import { dirtyBitmapCommands } from "./commands/dirty-bitmap.ts";
import { jobCommands } from "./commands/job.ts";
import { objectCommands } from "./commands/object.ts";
import { processCommands } from "./commands/process.ts";
import { runStateCommands } from "./commands/run-state.ts";

export const COMMANDS: ReadonlyMap<string, Command> = new Map(
  [
    ...blockdevCommands,
    ...dirtyBitmapCommands,
    blockStream,
    ...blockJobCommands,
    ...jobCommands,
    ...objectCommands,
    ...runStateCommands,
    ...processCommands,
  ].map((entry) => [entry.name, entry]),
);
