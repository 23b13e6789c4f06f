/** `help`, `quit`, `sleep`, `abort` and `sigraise`: commands about the shell and its process. */
import { constants } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { CommandFailure, type ShellCommand, usageLine } from "./io-command.ts";
import { ioMilliseconds, ioSize } from "./io-number.ts";

/** The C library's number of signals. */
const SIGNALS_MAX = 65;

export const help: ShellCommand = {
  name: "help",
  shortName: "?",
  synopsis: "[command]",
  summary: "tell more about a command, or list all of them",
  mostArguments: 1,
  leastArguments: 0,
  needs: "nothing",
  run({ operands: [name], shell }) {
    if (name === undefined) {
      for (const command of shell.commands) shell.print(usageLine(command, command.name));
      shell.print("\nUse 'help commandname' for extended help.\n");
      return;
    }
    const command = shell.command(name);
    if (command === undefined) throw new CommandFailure(`command ${name} not found`);
    shell.print(usageLine(command, name));
    if (command.details !== undefined) shell.print(`\n${command.details.map((line) => ` ${line}\n`).join("")}\n`);
  },
};

export const quit: ShellCommand = {
  name: "quit",
  shortName: "q",
  synopsis: "",
  summary: "end the program",
  mostArguments: Number.POSITIVE_INFINITY,
  needs: "nothing",
  run({ shell }) {
    shell.quit();
  },
};

export const sleep: ShellCommand = {
  name: "sleep",
  synopsis: "milliseconds",
  summary: "wait so long",
  leastArguments: 1,
  needs: "nothing",
  async run({ operands: [text = ""] }) {
    await delay(ioMilliseconds(text));
  },
};

export const abort: ShellCommand = {
  name: "abort",
  synopsis: "",
  summary: "crash, as abort(3) does: nothing is flushed",
  needs: "nothing",
  run() {
    // Node's own abort() would print a stack.
    process.kill(process.pid, "SIGABRT");
  },
};

export const sigraise: ShellCommand = {
  name: "sigraise",
  synopsis: "signal",
  summary: `raise a signal, such as ${constants.signals.SIGTERM} for SIGTERM`,
  leastArguments: 1,
  needs: "nothing",
  run({ operands: [text = ""], shell }) {
    const signal = ioSize(text);
    if (signal > SIGNALS_MAX) throw new CommandFailure(`signal argument '${text}' is too large to be a valid signal`);
    shell.flush();
    try {
      process.kill(process.pid, signal);
    } catch {
      // No signal has this number: raise(3) does nothing then.
    }
  },
};
