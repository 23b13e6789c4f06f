/**
 * Linux on our disk: file systems, trim, checksums, fio, and all of it again after a reboot. The back end is the program as
 * users start it. SPINDLE_LONG=1 runs every combination.
 */

import { spawnSync } from "node:child_process";
import { truncateSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { MiB } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { describe, expect, test } from "vitest";
import { Scratch, spindle } from "../acceptance/program.ts";
import { availableGuest, type DebianGuest } from "./debian-guest.ts";
import { DISK_MIB, firstVisit, laterVisit, results } from "./guest-scripts.ts";
import { runGuest } from "./machine.ts";
import { ServedImage } from "./served-image.ts";

const long = process.env["SPINDLE_LONG"] === "1";
const qemuImg = peer("qemu-img");

interface Situation {
  readonly format: "raw" | "qcow2";
  readonly queues: number;
  readonly packed: boolean;
}

const EVERY: readonly Situation[] = (["raw", "qcow2"] as const).flatMap((format) =>
  [1, 4].flatMap((queues) => [false, true].map((packed) => ({ format, queues, packed }))),
);
const SHORT: readonly Situation[] = [
  { format: "raw", queues: 1, packed: true },
  { format: "qcow2", queues: 4, packed: false },
];

/** Packed rings do not go on after a death of the back end. */
const KILLED = long ? (["qcow2", "raw"] as const) : (["qcow2"] as const);
const STREAMED: readonly Omit<Situation, "format">[] = [
  { queues: 2, packed: false },
  ...(long ? [true, false].flatMap((packed) => [1, 4].map((queues) => ({ queues, packed }))) : []),
];

async function makeImage(scratch: Scratch, format: "raw" | "qcow2"): Promise<void> {
  if (format === "qcow2") await spindle(["create", "-f", "qcow2", "disk", `${DISK_MIB}M`], { cwd: scratch.folder });
  else {
    writeFileSync(scratch.path("disk"), "");
    truncateSync(scratch.path("disk"), DISK_MIB * MiB);
  }
}

const found = availableGuest();
const guest = found as DebianGuest;

describe.skipIf(found === undefined || qemuImg === undefined)("a Linux guest", () => {
  test.each(long ? EVERY : SHORT)(
    "finds its files again: $format, $queues queues, packed $packed",
    async ({ format, queues, packed }) => {
      using scratch = new Scratch();
      await makeImage(scratch, format);
      const served = await ServedImage.start(scratch, "disk", [
        "-f",
        format,
        "--queues",
        `${queues}`,
        "--serial",
        "abc",
      ]);
      const machine = { guest, folder: scratch.folder, socket: scratch.path("socket"), queues, packed };
      const first = results(await runGuest(firstVisit(), machine));
      expect(first).toContain(`size ${DISK_MIB * 2048} serial abc cache write back`);
      expect(first).toContain(`queues ${Math.min(queues, 2)}`);
      expect(first.at(-1)).toBe("fio");
      const again = results(await runGuest(laterVisit(2), machine));
      expect(again.at(-1)).toBe("fio");
      const sums = (lines: readonly string[]) => lines.filter((line) => /^(ext4|xfs) [0-9a-f]{32}/.test(line));
      expect(sums(again)).toEqual(sums(first));
      expect(sums(again)).toHaveLength(2);
      expect(await served.stop()).toEqual({ code: 0, complaints: "" });
      if (format === "qcow2") scratch.tool(qemuImg as string, "check", "disk");
    },
    900_000,
  );

  test.each(KILLED)(
    "does not notice that the back end is killed and comes again: %s",
    async (format) => {
      using scratch = new Scratch();
      await makeImage(scratch, format);
      const argv = ["-f", format, "--queues", "2"];
      let served = await ServedImage.start(scratch, "disk", argv);
      let restarts = 0;
      let restarting: Promise<void> = Promise.resolve();
      const restart = async (): Promise<void> => {
        await served.kill();
        restarts += 1;
        served = await ServedImage.start(scratch, "disk", argv);
      };
      const machine = { guest, folder: scratch.folder, socket: scratch.path("socket"), queues: 2, reconnects: true };
      const killed = {
        ...machine,
        heard(line: string) {
          // The guest is at work on a file system or with fio then. QEMU 7.2 itself does not live through a death of the back
          // end while it connects again, so that these are seconds apart.
          if (/^result: (queues|\w+ [0-9a-f]{32})/.test(line))
            restarting = restarting.then(() => delay(700)).then(restart);
        },
      };
      const first = results(await runGuest(firstVisit(), killed));
      expect(first.at(-1)).toBe("fio");
      await restarting;
      expect(restarts).toBe(3);
      expect(results(await runGuest(laterVisit(2), machine)).at(-1)).toBe("fio");
      expect(await served.stop()).toEqual({ code: 0, complaints: "" });
      if (format === "raw") return;
      const { status } = spawnSync(qemuImg as string, ["check", "disk"], { cwd: scratch.folder });
      // 3 says that clusters have leaked, as after any death.
      expect([0, 3]).toContain(status);
    },
    900_000,
  );

  test.each(STREAMED)(
    "works on while its image is streamed, and needs the base no more: $queues queues, packed $packed",
    async ({ queues, packed }) => {
      using scratch = new Scratch();
      await makeImage(scratch, "qcow2");
      const machine = { guest, folder: scratch.folder, socket: scratch.path("socket"), queues, packed };
      const base = await ServedImage.start(scratch, "disk", ["-f", "qcow2"]);
      const first = results(await runGuest(firstVisit(), { ...machine, queues: 1 }));
      expect(first.at(-1)).toBe("fio");
      await base.stop();
      const create = ["create", "-f", "qcow2", "-b", "disk", "-F", "qcow2", "top"];
      expect((await spindle(create, { cwd: scratch.folder })).code).toBe(0);
      const served = await ServedImage.start(scratch, "top", ["-f", "qcow2", "--queues", `${queues}`, "--stream"]);
      expect(results(await runGuest(laterVisit(2), machine)).at(-1)).toBe("fio");
      await served.said(/^completed: /m);
      expect(await served.stop()).toEqual({ code: 0, complaints: "" });
      expect(JSON.parse(scratch.tool(qemuImg as string, "info", "--output=json", "top"))).not.toHaveProperty(
        "backing-filename",
      );
      scratch.tool(qemuImg as string, "check", "top");
      scratch.tool("rm", "disk");
      const alone = await ServedImage.start(scratch, "top", ["-f", "qcow2", "--queues", `${queues}`]);
      expect(results(await runGuest(laterVisit(3), machine)).at(-1)).toBe("fio");
      expect(await alone.stop()).toEqual({ code: 0, complaints: "" });
    },
    900_000,
  );
});
