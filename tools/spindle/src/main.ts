/** The program `spindle`: takes the command line, and ends with an exit code. */
import { reportFailure, runCommandLine } from "./command-line.ts";
import { takeProgramName } from "./program-name.ts";

// Whoever writes finds out by itself that the reader has gone; a stream goes on without one.
process.stdout.on("error", () => {});
process.stderr.on("error", () => {});
process.on("uncaughtException", (error) => process.exit(reportFailure(error)));
process.on("unhandledRejection", (reason) => process.exit(reportFailure(reason)));

process.exitCode = await runCommandLine(takeProgramName(process.argv));
