/** `bitmap`, and what other commands make of persistent bitmaps and snapshots, step by step beside qemu-img. */
import { peer } from "@spindle/testkit/peers";
import { describe, expect, test } from "vitest";
import { run, Scratch, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");

const IO = "io write -P 1 1M 100k";
const ABORT = "io abort";

const HISTORIES: Readonly<Record<string, readonly string[]>> = {
  "bitmaps of an image": [
    "bitmap --add a.qcow2 b0",
    IO,
    "bitmap --disable --enable --disable a.qcow2 b0",
    "bitmap --add --disable -g 512 a.qcow2 b1",
    "bitmap --add --merge b0 --remove a.qcow2 b2",
    "bitmap --add --merge b0 -g 4k a.qcow2 b2",
    "info --output=json a.qcow2",
    "measure -O qcow2 a.qcow2",
    "convert --bitmaps -O qcow2 a.qcow2 c.qcow2",
    "info c.qcow2",
    "check c.qcow2",
    "convert --bitmaps -n -O qcow2 a.qcow2 c.qcow2",
    "resize a.qcow2 20M",
    "resize --shrink a.qcow2 3M",
    "bitmap --add --merge b0 -b c.qcow2 -F qcow2 a.qcow2 b3",
    "create -q -f qcow2 -b a.qcow2 -F qcow2 top.qcow2",
    "bitmap --add top.qcow2 b4",
    "bitmap --add --merge b4 -b top.qcow2 a.qcow2 b4",
    "snapshot -c s a.qcow2",
    "snapshot -a s a.qcow2",
    "bitmap --remove a.qcow2 b0",
    "info a.qcow2",
    "check a.qcow2",
  ],
  "bitmaps that were left in use": [
    "bitmap --add a.qcow2 b0",
    "bitmap --add a.qcow2 b1",
    ABORT,
    "info a.qcow2",
    "bitmap --add a.qcow2 b1",
    "bitmap --clear a.qcow2 b1",
    "bitmap --add --merge b1 a.qcow2 b2",
    "resize a.qcow2 20M",
    "convert --bitmaps -O qcow2 a.qcow2 c.qcow2",
    "convert --bitmaps --skip-broken-bitmaps -O qcow2 a.qcow2 c.qcow2",
    "info c.qcow2",
    "bitmap --remove a.qcow2 b0",
    "bitmap --remove --add a.qcow2 b1",
    "info a.qcow2",
    "check a.qcow2",
  ],
  "what cannot be": [
    "bitmap a.qcow2 b",
    "bitmap --add a.qcow2",
    "bitmap --add -g 768 a.qcow2 b",
    "bitmap --add -g x a.qcow2 b",
    "bitmap --clear -g 64k a.qcow2 b",
    "bitmap --add -b x a.qcow2 b",
    "bitmap --add --merge x -F qcow2 a.qcow2 b",
    "bitmap --remove a.qcow2 b",
    "bitmap --add -f raw r.raw b",
    "bitmap --add old.qcow2 b",
    "convert --skip-broken-bitmaps -O qcow2 a.qcow2 c.qcow2",
    "convert --bitmaps -O qcow2 a.qcow2 a.qcow2 c.qcow2",
    "convert --bitmaps -f raw -O qcow2 r.raw c.qcow2",
    "convert --bitmaps -O raw a.qcow2 c.raw",
    "convert -l s -O raw a.qcow2 c.raw",
    "convert -l s -f raw -O raw r.raw c.raw",
    "convert -l snapshot.what=s -O raw a.qcow2 c.raw",
    "convert -l s -O raw a.qcow2 a.qcow2 c.raw",
    "measure -l s -O qcow2 a.qcow2",
  ],
  "snapshots that are looked at": [
    IO,
    "snapshot -c 2 a.qcow2",
    "io write -P 2 1M 4M",
    "snapshot -c last a.qcow2",
    "io write -z 0 6M",
    "convert -l 2 -O raw a.qcow2 last.raw",
    "convert -l snapshot.name=2 -O raw a.qcow2 first.raw",
    "convert -l snapshot.id=1,snapshot.name=last -O raw a.qcow2 none.raw",
    "measure -l last -O qcow2 a.qcow2",
    "measure -l 1 -O qcow2 a.qcow2",
    "compare -f raw -F qcow2 last.raw a.qcow2",
    "compare -f raw -F raw last.raw first.raw",
    "snapshot -a 1 a.qcow2",
    "compare -f raw -F qcow2 first.raw a.qcow2",
  ],
};

/** Names of nodes, times and space on the disk differ between programs. */
function told(text: string): string {
  return text
    .replace(/#block\d+/g, "#block")
    .replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, "DATE")
    .replace(/^disk size: .*$|^ *"actual-size": .*$/gm, "")
    .replace(/^Try 'qemu-img --help'.*\n/gm, "");
}

async function history(who: "ours" | "theirs", steps: readonly string[]): Promise<object[]> {
  using scratch = new Scratch();
  const options = { cwd: scratch.folder };
  scratch.tool(qemuImg as string, "create", "-f", "qcow2", "a.qcow2", "10M");
  scratch.tool(qemuImg as string, "create", "-f", "qcow2", "-o", "compat=0.10", "old.qcow2", "10M");
  scratch.tool(qemuImg as string, "create", "-f", "raw", "r.raw", "1M");
  const outcomes: object[] = [];
  for (const step of steps) {
    const [command = "", ...words] = step.split(" ");
    const isIo = command === "io";
    const argv = isIo ? ["-c", words.join(" "), "a.qcow2"] : [command, ...words];
    const ours = isIo ? ["io", ...argv] : ["--as", "qemu-img", ...argv];
    const program = (isIo ? qemuIo : qemuImg) as string;
    const { stdout, stderr, code } = await (who === "ours" ? spindle(ours, options) : run([program, ...argv], options));
    outcomes.push({ step, ...(isIo ? {} : { stdout: told(stdout), stderr: told(stderr), code }) });
  }
  return outcomes;
}

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("as qemu-img", () => {
  test.each(Object.entries(HISTORIES))("%s", { timeout: 300_000 }, async (_title, steps) => {
    const [ours, theirs] = await Promise.all([history("ours", steps), history("theirs", steps)]);
    expect(ours).toEqual(theirs);
  });
});
