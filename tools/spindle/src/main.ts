/** The program `spindle`: takes the command line, and ends with an exit code. */
import { reportFailure, runCommandLine } from "./command-line.ts";
import { EXIT_OK } from "./exit-codes.ts";

// A reader that has seen enough, such as `head`, is no failure.
process.stdout.on("error", () => process.exit(EXIT_OK));
process.stderr.on("error", () => {});
process.on("uncaughtException", (error) => process.exit(reportFailure(error)));
process.on("unhandledRejection", (reason) => process.exit(reportFailure(reason)));

process.exitCode = await runCommandLine(process.argv.slice(2));
