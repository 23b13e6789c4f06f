/** The list of an image's internal snapshots, as QEMU's programs print it. */
import { formatSize } from "@spindle/base";

/** One snapshot with the keys of qemu-img's JSON output. */
type SnapshotRecord = Readonly<Record<string, string | number>>;

/** Nothing when there are none. */
export function snapshotLines(snapshots: readonly SnapshotRecord[]): string[] {
  if (snapshots.length === 0) return [];
  return ["Snapshot list:", row("ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT"), ...snapshots.map(snapshotRow)];
}

function snapshotRow(snapshot: SnapshotRecord): string {
  const { id = "", name = "", icount = "" } = snapshot;
  const size = formatSize(Number(snapshot["vm-state-size"]));
  const clock = clockText(Number(snapshot["vm-clock-sec"]), Number(snapshot["vm-clock-nsec"]));
  return row(String(id), String(name), size, dateText(Number(snapshot["date-sec"])), clock, String(icount));
}

function row(id: string, tag: string, size: string, date: string, clock: string, instructions: string): string {
  const left = `${id.padEnd(9)} ${tag.padEnd(16)} `;
  return `${left}${size.padStart(8)}${date.padStart(20)}${clock.padStart(13)}${instructions.padStart(11)}`;
}

/** In the time zone of this host. */
function dateText(seconds: number): string {
  const date = new Date(seconds * 1000);
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":")}`;
}

function clockText(seconds: number, nanoseconds: number): string {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return `${parts.map(two).join(":")}.${String(Math.floor(nanoseconds / 1_000_000)).padStart(3, "0")}`;
}

function two(value: number): string {
  return String(value).padStart(2, "0");
}
