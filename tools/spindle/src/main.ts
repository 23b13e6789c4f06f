/** The program `spindle`: takes the command line, and ends with an exit code. */
import { reportFailure, runCommandLine } from "./command-line.ts";
import { takeProgramName } from "./program-name.ts";

process.on("uncaughtException", (error) => process.exit(reportFailure(error)));
process.on("unhandledRejection", (reason) => process.exit(reportFailure(reason)));

void runCommandLine(takeProgramName(process.argv)).then((code) => {
  // Not process.exit(), which would be sooner: it waits for V8's threads, of which one that compiles may wait for this one.
  process.exitCode = code;
});
