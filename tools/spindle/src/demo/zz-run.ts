import { runDemo } from "./demo.ts"; import { parseDemoOptions } from "./demo-options.ts";
process.exitCode = await runDemo(parseDemoOptions(process.argv.slice(2)));
