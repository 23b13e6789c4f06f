/** The same bytes to QEMU's programs and to this monitor: what comes back must be the same. */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SeededRandom } from "@spindle/base";
import { peer } from "@spindle/testkit/peers";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type Client, DISK_BYTES, MonitorRig } from "./monitor-rig.ts";
import { TestMachine } from "./test-machine.ts";

const daemon = peer("qemu-storage-daemon");
const qemu = peer("qemu-system-x86_64");
const qemuImg = peer("qemu-img");

const DAEMON_ARGUMENTS = ["--chardev", "stdio,id=c", "--monitor", "c"];

/** Takes out of a line what differs between two runs of one program. */
function normalize(line: string): string {
  return line
    .replace(/^\{"timestamp": \{[^}]*\}, /, "{")
    .replace(/("version"|"return"): \{("version": )?\{?"qemu": \{[^}]*\}, "package": "[^"]*"\}?/, "VERSION")
    .replace(/"offset": \d+/, '"offset": N')
    .replace(/"current-progress": \d+/, '"current-progress": N')
    .replace(/, "x-statistics": \{[^}]*\}/, "")
    .replace(/"x-statistics": \{[^}]*\}, /, "")
    .replace('"busy": true', '"busy": false');
}

/** A QMP client of one of QEMU's programs, over its standard streams. */
class Peer {
  readonly #process: ChildProcessWithoutNullStreams;
  #text = "";
  #arrived: () => void = () => {};

  constructor(program: string, programArguments: readonly string[], folder: string) {
    this.#process = spawn(program, programArguments, { cwd: folder });
    this.#process.stdout.on("data", (bytes: Buffer) => {
      this.#text += bytes.toString("latin1");
      this.#arrived();
    });
  }

  async negotiate(): Promise<void> {
    await this.until("QMP");
    await this.execute("qmp_capabilities");
  }

  execute(command: string, argumentValues: object = {}): Promise<string[]> {
    this.#process.stdin.write(JSON.stringify({ execute: command, arguments: argumentValues, id: 0 }));
    return this.until('"id": 0');
  }

  /** Waits until a line with this text has arrived, and returns all up to it. */
  async until(wanted: string): Promise<string[]> {
    for (;;) {
      const lines = this.#text.split("\r\n");
      const found = lines.slice(0, -1).findIndex((line) => line.includes(wanted));
      if (found >= 0) {
        this.#text = lines.slice(found + 1).join("\r\n");
        return lines.slice(0, found + 1).map(normalize);
      }
      await new Promise<void>((resolve) => {
        this.#arrived = resolve;
      });
    }
  }

  end(): void {
    this.#process.kill("SIGKILL");
  }
}

/** Bytes that are nearly JSON: documents with bytes changed, taken out, doubled. */
function nearlyJson(random: SeededRandom): Buffer {
  const pieces = [
    '{"execute":"nonsense","id":1}',
    '{"a":[1,2,{"b":null}],"c":-0.5e3}',
    "'single' \"double\\u00e9\\ud83d\\ude00\"",
    '[true,false,nul,"\\x",01,1.,-,+1,1e,1e+,9223372036854775808]',
    '{"id":{"z":1,"y":2,"__proto__":[3.25]},"execute":"nonsense"}',
    "\xff\xfe\x00\x01\x7f\x80\xc3\xa9",
    '}]{"a" 1}[1 2],:',
    '"\xc0\x80 \xed\xa0\x80 \xf0\x9f\x98\x80 \xe2\x82"',
    "\t\r\n @/*x*/ ",
  ];
  const bytes = [...Buffer.from(Array.from({ length: 3 }, () => random.pick(pieces)).join(" "), "latin1")];
  for (let change = random.below(4); change > 0; change--) {
    const at = random.below(bytes.length);
    const byte = random.chance(0.5) ? random.pick([...Buffer.from("{}[]:,\"'\\ \nu0e.-")]) : random.below(256);
    bytes.splice(at, random.below(3), ...Array.from({ length: random.below(3) }, () => byte));
  }
  return Buffer.from(bytes);
}

/** Closes whatever may be open, so that the next command is read as one. */
const RESYNC = Buffer.from(`\xff\n${"]}".repeat(40)}\n`, "latin1");

describe.skipIf(daemon === undefined)("beside qemu-storage-daemon", () => {
  it("reads 1,000 broken documents alike", () => {
    const random = new SeededRandom(20);
    const documents = Array.from({ length: 1000 }, () => nearlyJson(random));
    const stream = Buffer.concat([
      Buffer.from('{"execute":"qmp_capabilities"}'),
      ...documents.flatMap((each) => [each, Buffer.from("\n")]),
      RESYNC,
      Buffer.from('{"execute":"quit","id":"end"}'),
    ]);
    const theirs = spawnSync(daemon as string, DAEMON_ARGUMENTS, { input: stream, maxBuffer: 2 ** 28 });
    const client = new MonitorRig().qmp({ negotiate: false });
    client.sayBytes(stream);
    const ourLines = client.take().split("\r\n").map(normalize);
    const theirLines = theirs.stdout.toString().split("\r\n").map(normalize);
    expect(theirLines.length).toBeGreaterThan(3000);
    const first = theirLines.findIndex((line, index) => index > 0 && line !== ourLines[index]);
    expect(ourLines.slice(first, first + 3)).toEqual(first < 0 ? [] : theirLines.slice(first, first + 3));
    expect(ourLines.length).toBe(theirLines.length);
  });

  describe.skipIf(qemuImg === undefined)("with a disk", () => {
    let folder: string;
    let theirs: Peer;
    let ours: Client;
    let rig: MonitorRig;

    beforeEach(async () => {
      folder = mkdtempSync(join(tmpdir(), "spindle-monitor-"));
      writeFileSync(join(folder, "base"), Buffer.alloc(DISK_BYTES, 0x5a));
      const create = ["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top"];
      expect(spawnSync(qemuImg as string, create, { cwd: folder }).status).toBe(0);
      theirs = new Peer(daemon as string, DAEMON_ARGUMENTS, folder);
      await theirs.negotiate();
      const file = (filename: string) => ({ driver: "file", filename });
      await theirs.execute("blockdev-add", { ...file("base"), "node-name": "base" });
      const top = { driver: "qcow2", "node-name": "top", backing: "base", file: file("top") };
      expect(await theirs.execute("blockdev-add", top)).toEqual(['{"return": {}, "id": 0}']);
      rig = new MonitorRig();
      ours = rig.qmp();
      rig.addChain(ours);
    });

    afterEach(() => {
      theirs.end();
      rmSync(folder, { recursive: true });
    });

    /** Sends one command to both and compares everything that arrives up to the reply. */
    async function both(command: string, argumentValues: object = {}): Promise<void> {
      const expected = await theirs.execute(command, argumentValues);
      const lines = ours.execute(command, argumentValues).map(normalize);
      expect(lines, `${command} ${JSON.stringify(argumentValues)}`).toEqual(expected);
    }

    /** Compares everything that arrives up to a line with this text. */
    async function bothUntil(wanted: string): Promise<void> {
      const expected = await theirs.until(wanted);
      const lines: string[] = [];
      rig.until(() => {
        lines.push(...ours.lines().map(normalize));
        return lines.some((line) => line.includes(wanted));
      });
      expect(lines).toEqual(expected);
    }

    /** Waits until the jobs have no I/O in flight and sleep because of their limit. */
    const sleepingJob = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 300));

    it("refuses wrong arguments with the same words", async () => {
      for (const [command, argumentValues] of WRONG_REQUESTS) await both(command, argumentValues);
    });

    it("tells a job's whole life in the same order", async () => {
      const id = { id: "j" };
      const device = { device: "j" };
      const manual = { "auto-finalize": false, "auto-dismiss": false };
      await both("block-stream", { device: "top", "job-id": "j", speed: 1048576, ...manual });
      await sleepingJob();
      await both("query-block-jobs");
      for (const [command, argumentValues] of WRONG_VERBS) await both(command, argumentValues);
      await both("block-stream", { device: "top", "job-id": "k" });
      await both("blockdev-del", { "node-name": "top" });
      await both("block-job-pause", device);
      await both("block-job-pause", device);
      await both("job-pause", id);
      await both("block-job-cancel", device);
      await both("job-dismiss", id);
      await both("block-job-resume", device);
      await both("block-job-set-speed", { ...device, speed: -1 });
      await both("block-job-set-speed", { ...device, speed: 0 });
      await bothUntil("BLOCK_JOB_PENDING");
      await both("block-job-pause", device);
      await both("job-dismiss", id);
      await both("job-finalize", id);
      await both("query-jobs");
      await both("block-job-cancel", device);
      await both("job-dismiss", id);
      await both("query-jobs");
      await both("blockdev-del", { "node-name": "top" });
    });

    it("tells a success in the same order", async () => {
      await both("block-stream", { device: "top", "job-id": "j" });
      await bothUntil('"null"');
      await both("query-jobs");
    });

    it("cancels in the same order, and keeps what is not dismissed", async () => {
      await both("block-stream", { device: "top", "job-id": "j", speed: 1048576, "auto-dismiss": false });
      await sleepingJob();
      await both("block-job-cancel", { device: "j" });
      await both("query-jobs");
      await both("query-block-jobs");
      await both("job-dismiss", { id: "j" });
    });
  });
});

const WRONG_REQUESTS: readonly (readonly [string, object])[] = [
  ["block-stream", {}],
  ["block-stream", { device: 1 }],
  ["block-stream", { device: "top", bogus: 1 }],
  ["block-stream", { device: "top", speed: "x" }],
  ["block-stream", { device: "top", "on-error": "foo" }],
  ["block-stream", { device: "top", "on-error": 1 }],
  ["block-stream", { device: "top", "auto-finalize": "foo" }],
  ["block-stream", { device: "top" }],
  ["block-stream", { device: "top", "job-id": "bad id!" }],
  ["block-stream", { device: "nope", "job-id": "j" }],
  ["block-stream", { device: "top", "job-id": "j", base: "nope" }],
  ["block-stream", { device: "top", "job-id": "j", "base-node": "nope" }],
  ["block-stream", { device: "top", "job-id": "j", "base-node": "top" }],
  ["block-stream", { device: "top", "job-id": "j", bottom: "nope" }],
  ["block-stream", { device: "top", "job-id": "j", "backing-file": "x" }],
  ["block-stream", { device: "top", "job-id": "j", base: "a", "base-node": "b" }],
  ["block-stream", { device: "top", "job-id": "j", base: "a", bottom: "b" }],
  ["block-stream", { device: "top", "job-id": "j", "base-node": "a", bottom: "b" }],
  ["block-stream", { device: "top", "job-id": "j", speed: -1 }],
  ["block-job-set-speed", { device: "j" }],
  ["block-job-set-speed", { device: "j", speed: 1 }],
  ["block-job-pause", { device: "j" }],
  ["block-job-resume", { device: "j" }],
  ["block-job-cancel", { device: "j", force: true }],
  ["block-job-complete", { device: "j" }],
  ["block-job-finalize", { id: "j" }],
  ["block-job-dismiss", { id: "j" }],
  ["job-pause", { id: "j" }],
  ["job-cancel", { id: "j" }],
  ["job-finalize", { id: "j" }],
  ["blockdev-del", { "node-name": "nope" }],
  ["blockdev-add", {}],
  ["blockdev-add", { driver: 1 }],
  ["blockdev-add", { driver: "bogus", "node-name": "x" }],
  ["blockdev-add", { driver: "file", filename: "base" }],
  ["blockdev-add", { driver: "file", filename: "base", "node-name": "top" }],
  ["blockdev-add", { driver: "file", filename: "base", "node-name": "x", bogus: 1 }],
  ["blockdev-add", { driver: "file", filename: 5, "node-name": "x" }],
  ["block_resize", {}],
  ["block_resize", { "node-name": "top" }],
  ["block_resize", { "node-name": "top", size: "1G" }],
  ["block_resize", { "node-name": "top", size: -1 }],
  ["block_resize", { size: 512 }],
  ["block_resize", { device: "nope", size: 512 }],
  ["block_resize", { "node-name": "nope", size: 512 }],
  ["block_resize", { device: "top", "node-name": "nope", size: 512 }],
  ["block-dirty-bitmap-add", {}],
  ["block-dirty-bitmap-add", { node: "top" }],
  ["block-dirty-bitmap-add", { node: "nope", name: "b" }],
  ["block-dirty-bitmap-add", { node: "top", name: "" }],
  ["block-dirty-bitmap-add", { node: "top", name: "b", granularity: 768 }],
  ["block-dirty-bitmap-add", { node: "top", name: "b", granularity: "4k" }],
  ["block-dirty-bitmap-add", { node: "top", name: "b", granularity: 2 ** 32 }],
  ["block-dirty-bitmap-add", { node: "top", name: "b", bogus: true }],
  ["block-dirty-bitmap-remove", { node: "top", name: "nope" }],
  ["block-dirty-bitmap-clear", { node: "nope", name: "b" }],
  ["block-dirty-bitmap-enable", { node: "top", name: 5 }],
  ["block-dirty-bitmap-merge", { node: "top", target: "b" }],
  ["block-dirty-bitmap-merge", { node: "top", target: "b", bitmaps: "b" }],
  ["block-dirty-bitmap-merge", { node: "top", target: "b", bitmaps: [] }],
  ["block-dirty-bitmap-merge", { node: "top", target: "b", bitmaps: ["c"] }],
  ["block-dirty-bitmap-merge", { node: "nope", target: "b", bitmaps: ["c"] }],
  ["query-named-block-nodes", { flat: 1 }],
  ["query-block-jobs", { bogus: 1 }],
  ["nonsense", {}],
];

const WRONG_VERBS: readonly (readonly [string, object])[] = [
  ["job-dismiss", { id: "j" }],
  ["block-job-dismiss", { id: "j" }],
  ["job-finalize", { id: "j" }],
  ["block-job-finalize", { id: "j" }],
  ["job-complete", { id: "j" }],
  ["block-job-complete", { device: "j" }],
  ["job-resume", { id: "j" }],
  ["block-job-resume", { device: "j" }],
];

const HMP_LINES: readonly string[] = [
  "",
  "   ",
  "foo",
  "info foo",
  "info/block",
  "Info",
  "help foo",
  "help a b",
  "help info foo",
  "help block_stream",
  "help block_job_cancel",
  "help block_job_set_speed",
  "help block_job_pause",
  "help block_job_resume",
  "help block_job_complete",
  "help quit",
  "help q",
  "help ?",
  "help quit x",
  "help info block",
  "help info block-jobs",
  "info block-jobs",
  "  info  block-jobs",
  "info block-jobs x",
  "info block nope",
  "q/x",
  "block_stream",
  "block_stream nope",
  "block_stream\tnope",
  "block_stream nope 1M",
  "block_stream nope 0x10",
  "block_stream nope y",
  "block_stream nope 1 y z",
  "block_job_cancel",
  "block_job_cancel x",
  "block_job_cancel -f x",
  "block_job_cancel -x a",
  "block_job_cancel - a",
  "block_job_cancel -fa b",
  "block_job_cancel a -f",
  "block_job_set_speed",
  "block_job_set_speed a",
  "block_job_set_speed a b",
  "block_job_set_speed a 0.5",
  "block_job_set_speed a 1.5M",
  "block_job_set_speed a 1.5B",
  "block_job_set_speed a -1",
  "block_job_set_speed a 1x",
  "block_job_set_speed a 99999999999999999999",
  'block_job_set_speed "a b" 1',
  'block_job_set_speed "a\\"b" 1',
  'block_job_set_speed "a"b 1',
  "info status",
  "stop",
  "stop x",
  "info status",
  "c",
  "info status",
  "help cont",
  "help s",
  "help info status",
  "help block_resize",
  "block_resize",
  "block_resize a",
  "block_resize nope 1",
  "block_resize a 1x",
  "block_resize a b",
  "block_job_pause a",
  "block_job_resume a",
  "block_job_complete a",
];

describe.skipIf(qemu === undefined)("beside qemu-system", () => {
  it("prints the same for every line of HMP", async () => {
    const theirs = new Peer(qemu as string, ["-machine", "none", "-display", "none", "-qmp", "stdio"], tmpdir());
    try {
      await theirs.negotiate();
      const ours = new MonitorRig({ machine: new TestMachine() }).qmp();
      for (const line of HMP_LINES) {
        const expected = await theirs.execute("human-monitor-command", { "command-line": line });
        expect(ours.execute("human-monitor-command", { "command-line": line }), `line '${line}'`).toEqual(expected);
      }
    } finally {
      theirs.end();
    }
  });
});
