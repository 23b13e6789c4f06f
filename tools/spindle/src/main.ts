/** The program `spindle`: takes the command line, and ends with an exit code. */
import { reportFailure, runCommandLine } from "./command-line.ts";
import { takeProgramName } from "./program-name.ts";

process.on("uncaughtException", (error) => process.exit(reportFailure(error)));
process.on("unhandledRejection", (reason) => process.exit(reportFailure(reason)));

void runCommandLine(takeProgramName(process.argv)).then((code) => {
  process.exitCode = code;
  // Nothing goes on any more when this is called. Node would take its whole heap apart before it ends.
  process.on("exit", () => process.exit());
});
