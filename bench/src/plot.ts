/** A table's plotted columns as horizontal bars, with the spread as a line over each bar: one SVG, written by hand. */
import { formatNumber } from "./format-number.ts";
import type { Cell, Column, Table } from "./table.ts";

const WIDTH = 820;
const LABEL_WIDTH = 300;
const VALUE_WIDTH = 90;
const BAR = 16;
const GAP = 14;
const HEAD = 62;
const COLOURS = ["#2a6f97", "#c8553d", "#8a8d91", "#588157", "#b08968", "#6d597a"];

interface Series {
  readonly column: Column;
  readonly at: number;
  readonly colour: string;
}

export function plot(table: Table): string {
  const series = table.columns.flatMap((column, at) => (column.plotted === true ? [{ column, at }] : []));
  const coloured = series.map((one, index) => ({ ...one, colour: COLOURS[index % COLOURS.length] as string }));
  const highest = Math.max(...table.rows.flatMap((row) => series.map(({ at }) => row.cells[at]?.high ?? 0)), 1e-9);
  const groupHeight = coloured.length * BAR + GAP;
  const height = HEAD + table.rows.length * groupHeight + GAP;
  const groups = table.rows.map((row, index) => {
    const top = HEAD + index * groupHeight;
    const middle = top + (coloured.length * BAR) / 2 + 4;
    const label = `<text x="${LABEL_WIDTH - 10}" y="${middle}" text-anchor="end">${escapeText(row.label)}</text>`;
    return label + coloured.map((one, line) => bar(one, row.cells[one.at], top + line * BAR, highest)).join("");
  });
  const unit = series[0]?.column.unit ?? "";
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}"`,
    ' font-family="sans-serif" font-size="12" fill="#222">',
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="12" y="22" font-size="14" font-weight="bold">${escapeText(table.title)}</text>`,
    legend(coloured, unit),
    ...groups,
    "</svg>\n",
  ].join("\n");
}

function bar({ colour }: Series, figure: Cell, top: number, highest: number): string {
  if (figure === undefined) return `<text x="${LABEL_WIDTH}" y="${top + 12}" fill="#888">not measured</text>`;
  const scale = (value: number) => (value / highest) * (WIDTH - LABEL_WIDTH - VALUE_WIDTH);
  const [low, high] = [LABEL_WIDTH + scale(figure.low), LABEL_WIDTH + scale(figure.high)].map((x) => x.toFixed(1));
  const middle = top + BAR / 2;
  return [
    `<rect x="${LABEL_WIDTH}" y="${top + 1}" width="${scale(figure.median).toFixed(1)}" height="${BAR - 2}" fill="${colour}"/>`,
    `<line x1="${low}" x2="${high}" y1="${middle}" y2="${middle}" stroke="#222"/>`,
    `<text x="${Number(high) + 6}" y="${top + 12}">${formatNumber(figure.median)}</text>`,
  ].join("");
}

function legend(series: readonly Series[], unit: string): string {
  let x = 12;
  return series
    .map(({ column, colour }) => {
      const text = unit === "" ? column.title : `${column.title}, ${unit}`;
      const left = x;
      x += 24 + text.length * 6.6;
      return `<rect x="${left}" y="36" width="10" height="10" fill="${colour}"/><text x="${left + 15}" y="45">${escapeText(text)}</text>`;
    })
    .join("");
}

function escapeText(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
