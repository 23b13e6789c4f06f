/** Every bench runs in its shortest form and hands back whole tables. No figure is judged here. */
import { describe, expect, test } from "vitest";
import type { BenchContext } from "../src/bench.ts";
import { BENCHES } from "../src/benches.ts";
import { replaceBlocks } from "../src/markdown-blocks.ts";
import { plot } from "../src/plot.ts";
import { formatMarkdown, formatText } from "../src/report.ts";
import { cell, meetsTarget, ratioCell, type Table } from "../src/table.ts";

const context: BenchContext = { scale: "shape", progress: () => {} };

describe.each(BENCHES)("$name", (bench) => {
  test("measures something in every row, and can be printed and drawn", async () => {
    const tables = await bench.run(context);
    expect(tables.length).toBeGreaterThan(0);
    for (const table of tables) {
      expect(table.rows.length, table.name).toBeGreaterThan(0);
      for (const row of table.rows) {
        expect(row.cells, row.label).toHaveLength(table.columns.length);
        expect(row.cells[0]?.median, row.label).toBeGreaterThan(0);
        expect(formatText(table)).toContain(row.label);
        expect(formatMarkdown(table)).toContain(`| ${row.label} |`);
      }
      expect(plot(table)).toMatch(/^<svg [\s\S]*<rect [\s\S]*<\/svg>\n$/);
    }
  });
});

const TABLE: Table = {
  name: "example",
  title: "Apples <&> pears",
  arguments: "example",
  columns: [
    { title: "apples", unit: "kg", plotted: true },
    { title: "times pears", unit: "" },
  ],
  rows: [{ label: "basket", cells: [cell([3, 1, 2]), ratioCell([3, 1, 2], [1, 1], { atLeast: 2.5 })] }],
  notes: [],
};

describe("a table", () => {
  test("shows the median, the spread and what became of each target", () => {
    const text = formatText(TABLE);
    expect(text).toContain("2.00 (1.00-3.00)");
    expect(text).toContain("Target missed: basket, times pears: at least 2.50, found 2.00.");
    expect(meetsTarget(TABLE.rows[0]?.cells[1])).toBe(false);
  });
  test("has no ratio when the peer is missing", () => {
    expect(ratioCell([1, 2], [], { atLeast: 1 })).toBeUndefined();
    expect(formatText({ ...TABLE, rows: [{ label: "basket", cells: [cell([1]), undefined] }] })).toContain("–");
  });
  test("is drawn with its text escaped and its bars inside of the picture", () => {
    const picture = plot(TABLE);
    expect(picture).toContain("Apples &lt;&amp;&gt; pears");
    for (const [, edge] of picture.matchAll(/(?:x2|width)="([\d.]+)"/g)) expect(Number(edge)).toBeLessThanOrEqual(820);
  });
  test("replaces its own block of a page and nothing else", () => {
    const page = "a\n<!-- bench: example -->\nold\n<!-- end: example -->\nb\n";
    const blocks = new Map([
      ["example", "new"],
      ["other", "nothing"],
    ]);
    expect(replaceBlocks(page, blocks)).toBe("a\n<!-- bench: example -->\nnew\n<!-- end: example -->\nb\n");
  });
});
