/** `amend` prints what qemu-img prints, ends with its exit codes, and leaves images that are the same to `info`. */
import { peer } from "@spindle/testkit/peers";
import { describe, expect, test } from "vitest";
import { run, Scratch, spindle } from "./program.ts";

const qemuImg = peer("qemu-img");

const HISTORIES: Readonly<Record<string, readonly string[]>> = {
  "what changes": [
    "amend -p -o size=20M a.qcow2",
    "amend -o lazy_refcounts a.qcow2",
    "amend -o nolazy_refcounts,refcount_bits=64 a.qcow2",
    "info a.qcow2",
    "amend -o compat=0.10 a.qcow2",
    "amend -o compat=v2,refcount_bits=16 a.qcow2",
    "info a.qcow2",
    "amend -o compat=v3 -o refcount_bits=1,lazy_refcounts=on a.qcow2",
    "info a.qcow2",
    "snapshot -c one a.qcow2",
    "amend -o backing_file=a.qcow2,backing_fmt=qcow2 b.qcow2",
    "amend -p -o compat=0.10 b.qcow2",
    "compare a.qcow2 b.qcow2",
  ],
  "what does not": [
    "amend a.qcow2",
    "amend -o help",
    "amend -f qcow2 -o help",
    "amend -o cluster_size=4k,help a.qcow2",
    "amend -f raw -o help",
    "amend -o size=1M a.qcow2 b.qcow2",
    "amend -f raw -o size=1M r.raw",
    ...["size=x", "size=100", "lazy_refcounts=maybe", "refcount_bits=x", "refcount_bits=3", "compat=", "foo=bar"],
    ...["cluster_size=64k", "nocow=on", "data_file=x", "data_file_raw=on", "encrypt.state=active", "size=1M,"],
    ...["backing_fmt=raw", "compat=0.10,lazy_refcounts=on", "compat=0.10,refcount_bits=8"],
  ].map((step) => (/^(amend) /.test(step) ? step : `amend -o ${step} a.qcow2`)),
};

async function history(who: "ours" | "theirs", steps: readonly string[]): Promise<object[]> {
  using scratch = new Scratch();
  const options = { cwd: scratch.folder };
  scratch.tool(qemuImg as string, "create", "-f", "qcow2", "a.qcow2", "10M");
  scratch.tool(qemuImg as string, "create", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "b.qcow2");
  scratch.tool(qemuImg as string, "create", "-f", "raw", "r.raw", "1M");
  const outcomes: object[] = [];
  for (const step of steps) {
    const words = step.split(" ");
    const program = who === "ours" ? spindle(["--as", "qemu-img", ...words], options) : undefined;
    const { stdout, stderr, code } = await (program ?? run([qemuImg as string, ...words], options));
    const told = (text: string): string =>
      text.replace(/^disk size: .*$/gm, "").replace(/^Try 'qemu-img --help'.*\n/gm, "");
    outcomes.push({ step, stdout: told(stdout), stderr: told(stderr), code });
  }
  return outcomes;
}

describe.skipIf(qemuImg === undefined)("as qemu-img", () => {
  test.each(Object.entries(HISTORIES))("amend: %s", { timeout: 300_000 }, async (_title, steps) => {
    const [ours, theirs] = await Promise.all([history("ours", steps), history("theirs", steps)]);
    expect(ours).toEqual(theirs);
  });
});
