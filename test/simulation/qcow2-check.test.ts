/** The tests' own consistency check agrees with QEMU's, on images that are right and on images that are not. */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SeededRandom } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkQcow2 } from "./qcow2-check.ts";

const qemuImg = peer("qemu-img") ?? "";
const qemuIo = peer("qemu-io") ?? "";

describe.skipIf(qemuImg === "" || qemuIo === "")("the consistency check", () => {
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "spindle-qcow2-check-"));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  function image(options: string): Uint8Array {
    const path = join(folder, "image.qcow2");
    execFileSync(qemuImg, ["create", "-q", "-f", "qcow2", "-o", options, path, "1M"]);
    const commands = [
      "write -P 5 0 64k",
      "write -P 6 200k 9k",
      "write -c -P 7 400k 16k",
      "write -z 60k 8k",
      "discard 8k 4k",
    ];
    execFileSync(qemuIo, ["-f", "qcow2", ...commands.flatMap((command) => ["-c", command]), path]);
    return readFileSync(path);
  }

  function verdict(bytes: Uint8Array): { leaks: number; corruptions: number } {
    const path = join(folder, "changed.qcow2");
    writeFileSync(path, bytes);
    const { stdout } = spawnSync(qemuImg, ["check", "--output=json", "-f", "qcow2", path], { encoding: "utf8" });
    const found = JSON.parse(stdout) as { leaks?: number; corruptions?: number };
    return { leaks: found.leaks ?? 0, corruptions: found.corruptions ?? 0 };
  }

  it.each(["compat=0.10,cluster_size=4096", "compat=1.1,cluster_size=4096", "extended_l2=on,cluster_size=16k"])(
    "finds nothing in what QEMU has written (%s)",
    (options) => {
      expect(checkQcow2(image(options))).toEqual({ leaks: 0, corruptions: [] });
    },
  );

  it("finds leaks and corruptions where QEMU finds them", () => {
    const random = new SeededRandom(1);
    const original = image("cluster_size=4096");
    const view = new DataView(original.buffer, original.byteOffset);
    const block = Number(view.getBigUint64(Number(view.getBigUint64(48))));
    for (let round = 0; round < 20; round++) {
      const bytes = original.slice();
      const count = new DataView(bytes.buffer);
      const at = block + 2 * random.below(bytes.length / 4096 + 2);
      count.setUint16(at, random.pick([0, 1, 2]));
      const expected = verdict(bytes);
      const found = checkQcow2(bytes);
      expect(found.leaks, `count at ${at}`).toBe(expected.leaks);
      expect(found.corruptions.length > 0, `count at ${at}: ${found.corruptions}`).toBe(expected.corruptions > 0);
    }
  });
});
