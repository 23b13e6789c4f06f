/** All commands of the shell, by name. */
import { breakRequest, removeBreak, resume, waitBreak } from "./break-commands.ts";
import type { IoCommand } from "./io-command.ts";
import { alloc, info, length, map } from "./look-commands.ts";
import { close, open, reopen } from "./open-commands.ts";
import { abort, help, quit, sigraise, sleep } from "./process-commands.ts";
import { aioRead, read, readv } from "./read-commands.ts";
import { aioFlush, discard, flush, truncate } from "./space-commands.ts";
import { aioWrite, write, writev } from "./write-commands.ts";

export const COMMANDS: readonly IoCommand[] = [
  abort,
  aioFlush,
  aioRead,
  aioWrite,
  alloc,
  breakRequest,
  close,
  discard,
  flush,
  help,
  info,
  length,
  map,
  open,
  quit,
  read,
  readv,
  removeBreak,
  reopen,
  resume,
  sigraise,
  sleep,
  truncate,
  waitBreak,
  write,
  writev,
];
