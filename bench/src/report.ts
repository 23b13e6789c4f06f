/** A table as text for a terminal, as Markdown for docs/performance.md, and as files under bench/results. */
import { mkdirSync, writeFileSync } from "node:fs";
import type { EnvironmentFacts } from "./environment-facts.ts";
import { formatNumber, MISSING } from "./format-number.ts";
import { plot } from "./plot.ts";
import { type Cell, type Column, meetsTarget, type Row, type Table } from "./table.ts";

/** The median, and the spread where there is one. */
function formatCell(figure: Cell): string {
  if (figure === undefined) return MISSING;
  const { median, low, high } = figure;
  const spread = low === high ? "" : ` (${formatNumber(low)}-${formatNumber(high)})`;
  return formatNumber(median) + spread;
}

/** The table as a terminal shows it, and below it every target with what became of it. */
export function formatText(table: Table): string {
  const lines = [headings(table.columns), ...table.rows.map(cellsOf)];
  const widths = lines[0]?.map((_, at) => Math.max(...lines.map((line) => line[at]?.length ?? 0))) ?? [];
  const body = lines.map((line) =>
    line.map((text, at) => (at === 0 ? text.padEnd(widths[0] ?? 0) : text.padStart(widths[at] ?? 0))).join("  "),
  );
  return [table.title, ...body.map((line) => `  ${line}`), ...targetLines(table), ...table.notes, ""].join("\n");
}

/** The table as docs/performance.md holds it. */
export function formatMarkdown(table: Table): string {
  const alignment = table.columns.map(() => "--:").join("|");
  return [
    `**${table.title}** (\`npm run bench -- ${table.arguments}\`)`,
    "",
    ...[headings(table.columns)].map(markdownRow),
    `|---|${alignment}|`,
    ...table.rows.map(cellsOf).map(markdownRow),
    ...[...targetLines(table), ...table.notes].flatMap((line) => ["", line]),
  ].join("\n");
}

/** Writes the table's JSON and its plot. */
export function writeResults(directory: string, table: Table, facts: EnvironmentFacts): void {
  mkdirSync(directory, { recursive: true });
  writeFileSync(`${directory}/${table.name}.json`, `${JSON.stringify({ ...table, facts }, null, 2)}\n`);
  writeFileSync(`${directory}/${table.name}.svg`, plot(table));
}

function headings(columns: readonly Column[]): string[] {
  return ["", ...columns.map(({ title, unit }) => (unit === "" ? title : `${title}, ${unit}`))];
}

function cellsOf(row: Row): string[] {
  return [row.label, ...row.cells.map(formatCell)];
}

function markdownRow(cells: readonly string[]): string {
  return `| ${cells.join(" | ")} |`;
}

function targetLines({ columns, rows }: Table): string[] {
  return rows.flatMap((row) =>
    row.cells.flatMap((figure, at) => {
      const met = meetsTarget(figure);
      if (figure?.target === undefined || met === undefined) return [];
      const { atLeast, atMost } = figure.target;
      const wanted =
        atLeast === undefined ? `at most ${formatNumber(atMost ?? 0)}` : `at least ${formatNumber(atLeast)}`;
      const verdict = met ? "met" : "missed";
      return [
        `Target ${verdict}: ${row.label}, ${columns[at]?.title}: ${wanted}, found ${formatNumber(figure.median)}.`,
      ];
    }),
  );
}
