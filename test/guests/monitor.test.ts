/** Linux on a disk that monitors change under it: another length, and a write that waits for space. */
import { MiB } from "@spindle/base";
import { describe, expect, test } from "vitest";
import { QmpClient } from "../acceptance/monitor-client.ts";
import { Scratch, spindle } from "../acceptance/program.ts";
import { availableGuest, type DebianGuest } from "./debian-guest.ts";
import { results } from "./guest-scripts.ts";
import { runGuest } from "./machine.ts";
import { ServedImage } from "./served-image.ts";

const guest = availableGuest() as DebianGuest;

const SIZE = 64 * MiB;
const LONGER = 128 * MiB;
const SHORTER = 32 * MiB;

const SCRIPT = `
size() { cat /sys/block/vda/size; }
until_changed() { echo "result: $1"; while [ "$(size)" = "$2" ]; do sleep 0.1; done; echo "result: size $(size)"; }
write() { dd if=/bin/busybox of=/dev/vda bs=64k count=4 seek=$(($1 * 16)) conv=fsync 2> /tmp/out || cat /tmp/out; }
until_changed longer ${SIZE / 512}
write 120 && cmp -n 262144 /bin/busybox /dev/vda 0 $((120 * 1048576)) && echo "result: the end is written"
echo "result: full"
write 100 && echo "result: what was full is written"
until_changed shorter ${LONGER / 512}
echo "result: $(cat /dev/vda | wc -c) bytes can be read"
dmesg | grep -c "I/O error" | sed 's/^/result: errors /'
`;

describe.skipIf(guest === undefined)("a Linux guest", () => {
  test("sees its disk become longer and shorter, and waits without an error while there is no space", async () => {
    using scratch = new Scratch();
    await spindle(["create", "-f", "qcow2", "disk", `${SIZE}`], { cwd: scratch.folder });
    const rule = { operation: "write", errno: "ENOSPC", offset: 100 * MiB, length: MiB, once: true };
    const image = { driver: "qcow2", file: { driver: "file", filename: "disk" } };
    const options = `json:${JSON.stringify({ driver: "fault", rules: [rule, rule], file: image })}`;
    const served = await ServedImage.start(scratch, options, ["--qmp", "unix:qmp", "--queues", "2"]);
    const qmp = await QmpClient.connect(scratch.path("qmp"));
    const resize = (size: number) => qmp.execute("block_resize", { "node-name": "disk0", size });
    const letGo = async (): Promise<void> => {
      for (const _failure of [1, 2]) {
        await qmp.message(({ event }) => event === "STOP");
        await qmp.execute("cont");
      }
    };
    let steps: Promise<unknown> = Promise.resolve();
    const heard = (line: string): void => {
      if (line === "result: longer") steps = steps.then(() => resize(LONGER));
      if (line === "result: full") steps = steps.then(letGo);
      if (line === "result: shorter") steps = steps.then(() => resize(SHORTER));
    };
    const machine = { guest, folder: scratch.folder, socket: scratch.path("socket"), queues: 2, heard };
    const lines = results(await runGuest(SCRIPT, machine));
    await steps;
    expect(lines).toEqual([
      "longer",
      `size ${LONGER / 512}`,
      "the end is written",
      "full",
      "what was full is written",
      "shorter",
      `size ${SHORTER / 512}`,
      `${SHORTER} bytes can be read`,
      "errors 0",
    ]);
    expect(qmp.events.filter((line) => /STOP|RESUME/.test(line))).toHaveLength(4);
    const { code, complaints } = await served.stop();
    expect(code).toBe(0);
    expect(complaints.match(/wait for 'cont'/g)).toHaveLength(2);
  }, 300_000);
});
