/** `spindle completion`: prints the script with which a shell completes the program's words. */
import { type Command, type CommandTable, defineCommand, UsageError } from "../command.ts";
import { completeWords } from "../completion/complete-words.ts";
import { SHELLS, shellScript } from "../completion/shell-script.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { print } from "../output.ts";
import { programName } from "../program-name.ts";

const EXPECTED = `Expecting the name of a shell: ${SHELLS.join(", ")}`;

/** @param commands those whose words are completed, this one among them */
export function completionOf(commands: CommandTable): Command {
  return defineCommand({
    name: "completion",
    operands: SHELLS.join("|"),
    operandCount: { least: 1, most: Number.POSITIVE_INFINITY, otherwise: EXPECTED },
    about:
      "Prints a script that makes a shell complete commands, options and their values. For bash: source <(spindle\n" +
      "completion bash); for zsh the same behind compinit; for fish: spindle completion fish | source.",
    options: {
      candidates: { help: "print instead what could stand for the last of the words behind --, for those scripts" },
    },
    async run({ candidates }, operands) {
      if (candidates) {
        const lines = (await completeWords(commands, operands)).map(({ word, about }) =>
          about === "" ? word : `${word}\t${about}`,
        );
        print(lines.map((line) => `${line}\n`).join(""));
        return EXIT_OK;
      }
      const shell = SHELLS.find((name) => name === operands[0]);
      if (shell === undefined || operands.length > 1) throw new UsageError(EXPECTED);
      print(shellScript(shell, programName()));
      return EXIT_OK;
    },
  });
}
