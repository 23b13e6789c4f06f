/**
 * The benchmarks' front door: `npm run bench -- [--quick] [--markdown[=FILE]] [NAME...]`. Each table is printed, and
 * written with its plot under bench/results. Figures never make it fail; a bench that cannot run does.
 */
import { parseArgs } from "node:util";
import type { BenchContext } from "./bench.ts";
import { BENCHES } from "./benches.ts";
import { describeFacts, environmentFacts } from "./environment-facts.ts";
import { updateMarkdown } from "./markdown-blocks.ts";
import { formatMarkdown, formatText, writeResults } from "./report.ts";
import type { Table } from "./table.ts";

const USAGE = `Usage: npm run bench -- [--quick] [--markdown] [--update FILE] [NAME...]

  --quick        a short form, for a first look
  --markdown     print the tables as Markdown
  --update FILE  put the tables into the blocks of a Markdown file that bear their names

${BENCHES.map(({ name, about }) => `  ${name.padEnd(16)} ${about}`).join("\n")}
`;

interface Options {
  readonly quick: boolean;
  readonly markdown: boolean;
  readonly update: string | undefined;
  readonly names: readonly string[];
}

async function main(options: Options): Promise<void> {
  const facts = environmentFacts();
  const results = new URL("../results", import.meta.url).pathname;
  const context: BenchContext = {
    scale: options.quick ? "quick" : "full",
    progress: (line) => process.stderr.write(`${line}\n`),
  };
  const blocks = new Map([["facts", describeFacts(facts)]]);
  process.stdout.write(`${describeFacts(facts)}\n\n`);
  for (const bench of BENCHES) {
    if (options.names.length > 0 && !options.names.includes(bench.name)) continue;
    context.progress(`${bench.name}: ${bench.about}`);
    const tables: Table[] = await bench.run(context);
    for (const table of tables) {
      writeResults(results, table, facts);
      blocks.set(table.name, formatMarkdown(table));
      process.stdout.write(`${options.markdown ? formatMarkdown(table) : formatText(table)}\n`);
    }
    if (options.update !== undefined) updateMarkdown(options.update, blocks);
  }
  process.stderr.write(`written to ${results}\n`);
}

function readOptions(): Options {
  const { values, positionals } = parseArgs({
    options: {
      quick: { type: "boolean", default: false },
      markdown: { type: "boolean", default: false },
      update: { type: "string" },
      help: { type: "boolean", default: false },
    },
    allowPositionals: true,
  });
  const unknown = positionals.find((name) => BENCHES.every((bench) => bench.name !== name));
  if (values.help || unknown !== undefined) {
    process.stderr.write(unknown === undefined ? USAGE : `no bench is named '${unknown}'\n\n${USAGE}`);
    process.exit(unknown === undefined ? 0 : 2);
  }
  const { quick, markdown, update } = values;
  return { quick, markdown, update, names: positionals };
}

await main(readOptions());
