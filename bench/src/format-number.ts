/** Figures as people read them. */

/** Stands for a figure that could not be measured. */
export const MISSING = "–";

/** Three significant digits, with a space between thousands. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return MISSING;
  const digits = value === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  const [whole = "", part] = value.toFixed(Math.min(digits, 3)).split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, " ");
  return part === undefined ? grouped : `${grouped}.${part}`;
}
