/**
 * What a bench hands back: tables of figures. A row is one situation, a column one figure of it, ours or a peer's, or
 * the ratio of the two. How a table is printed, written and drawn stands in report.ts and plot.ts.
 */
import { type Summary, summarize } from "./statistics.ts";

export interface Column {
  readonly title: string;
  /** Such as `MB/s` or `us`; empty for plain numbers. */
  readonly unit: string;
  /** Whether the plot shows this column; those that it shows have one unit. */
  readonly plotted?: boolean;
}

/** One figure; undefined when it could not be measured. */
export type Cell = (Summary & { readonly target?: Target }) | undefined;

/** What a figure is expected to be. A bench that misses it says so, and does not fail. */
export interface Target {
  readonly atLeast?: number;
  readonly atMost?: number;
}

export interface Row {
  readonly label: string;
  readonly cells: readonly Cell[];
}

export interface Table {
  /** The file name of its JSON and its plot, without the ending. */
  readonly name: string;
  readonly title: string;
  /** What makes the table, after `npm run bench -- `. */
  readonly arguments: string;
  readonly columns: readonly Column[];
  readonly rows: readonly Row[];
  /** Whole sentences: how it was measured, what limits it, what was missing. */
  readonly notes: readonly string[];
}

/** The figure of several samples. */
export function cell(samples: readonly number[], target?: Target): Cell {
  const summary = summarize(samples);
  return summary === undefined ? undefined : withTarget(summary, target);
}

/**
 * How many times theirs ours is, round by round: both were measured in turn, so that what disturbs the machine for a
 * while disturbs both.
 */
export function ratioCell(ours: readonly number[], theirs: readonly number[], target?: Target): Cell {
  const ratios = ours.flatMap((value, round) => {
    const other = theirs[round];
    return other === undefined || other === 0 ? [] : [value / other];
  });
  return cell(ratios, target);
}

function withTarget(summary: Summary, target: Target | undefined): Cell {
  return target === undefined ? summary : { ...summary, target };
}

/** Whether a figure is what it is expected to be; undefined when nothing is expected or nothing was measured. */
export function meetsTarget(figure: Cell): boolean | undefined {
  if (figure?.target === undefined) return undefined;
  const { atLeast = Number.NEGATIVE_INFINITY, atMost = Number.POSITIVE_INFINITY } = figure.target;
  return figure.median >= atLeast && figure.median <= atMost;
}
