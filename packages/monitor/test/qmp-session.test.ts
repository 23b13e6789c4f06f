import { BlockError } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { WAITING_BYTES_MAX } from "../src/connection.ts";
import { DISK_BYTES, MonitorRig } from "./monitor-rig.ts";

const GREETING =
  '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}\r\n';
const OK = '{"return": {}}';

function failure(desc: string, errorClass = "GenericError"): string {
  return `{"error": {"class": "${errorClass}", "desc": ${JSON.stringify(desc)}}}`;
}

/** The job states and events in what a client was sent; replies as they are. */
function story(lines: readonly string[]): string[] {
  return lines.map((line) => {
    const { event, data } = JSON.parse(line);
    return event === undefined ? line : event === "JOB_STATUS_CHANGE" ? data.status : event;
  });
}

function streamRig(options: object = {}) {
  const rig = new MonitorRig();
  const client = rig.qmp();
  rig.addChain(client);
  const started = client.execute("block-stream", { device: "top", "job-id": "j", ...options });
  const all = [...started];
  const until = (last: string): string[] => {
    rig.until(() => {
      all.push(...client.lines());
      return story(all).includes(last);
    });
    return story(all);
  };
  return { rig, client, started, all, until };
}

describe("the negotiation", () => {
  it("greets, refuses everything until the capabilities are negotiated, and negotiates once", () => {
    const client = new MonitorRig().qmp({ negotiate: false });
    expect(client.take()).toBe(GREETING);
    client.say('{"execute": "query-version"} {"execute": "nonsense", "id": 1} {"execute": 5} 7 ');
    const expecting = "Expecting capabilities negotiation with 'qmp_capabilities'";
    expect(client.lines()).toEqual([
      failure(expecting, "CommandNotFound"),
      `{"id": 1, ${failure(expecting, "CommandNotFound").slice(1)}`,
      failure("QMP input member 'execute' must be a string"),
      failure("QMP input must be a JSON object"),
    ]);
    client.say({ execute: "qmp_capabilities" }).say({ execute: "qmp_capabilities" });
    expect(client.lines()).toEqual([
      OK,
      failure("Capabilities negotiation is already complete, command ignored", "CommandNotFound"),
    ]);
  });

  it.each([
    [{ enable: ["oob"] }, "Capability oob not available"],
    [{ enable: ["foo"] }, "Parameter 'enable[0]' does not accept value 'foo'"],
    [{ enable: [1] }, "Invalid parameter type for 'enable[0]', expected: string"],
    [{ enable: "oob" }, "Invalid parameter type for 'enable', expected: array"],
    [{ bogus: [] }, "Parameter 'bogus' is unexpected"],
  ])("refuses %j", (argumentValues, desc) => {
    const client = new MonitorRig().qmp({ negotiate: false });
    client.take();
    client.say({ execute: "qmp_capabilities", arguments: argumentValues });
    expect(client.lines()).toEqual([failure(desc)]);
    client.say({ execute: "qmp_capabilities", arguments: { enable: [] } });
    expect(client.lines()).toEqual([OK]);
  });

  it("tells events only to clients that have negotiated", () => {
    const rig = new MonitorRig();
    const early = rig.qmp({ negotiate: false });
    const ready = rig.qmp();
    early.take();
    rig.monitor.emit("SHUTDOWN", { guest: false, reason: "host-qmp-quit" });
    expect(early.take()).toBe("");
    expect(ready.take()).toBe(
      '{"timestamp": {"seconds": 1700000000, "microseconds": 123456}, "event": "SHUTDOWN", ' +
        '"data": {"guest": false, "reason": "host-qmp-quit"}}\r\n',
    );
  });

  it("tells of an image that was found corrupt, in QEMU's order of keys", () => {
    const rig = new MonitorRig();
    const client = rig.qmp();
    const message = "L2 table offset 0x2a2a2a00 unaligned (L1 index: 0)";
    rig.graph.tellCorruption("drive", { message, offset: undefined, length: undefined, fatal: false });
    expect(client.take()).toContain(
      `"event": "BLOCK_IMAGE_CORRUPTED", "data": {"device": "", "msg": "${message}", "node-name": "drive", "fatal": false}}`,
    );
    rig.graph.tellCorruption("drive", { message, offset: 512, length: 1024, fatal: true });
    expect(client.take()).toMatch(/"offset": 512.*"size": 1024/);
  });
});

describe("requests", () => {
  it("answers in order, and gives the id back in QEMU's order of keys", () => {
    const client = new MonitorRig().qmp();
    client.say(`{"execute":"query-jobs","id":{"b":1,"a":[1,2.5,null,true,"é"]}}{"execute":"nonsense","id":18446744073709551615}
      {'execute':'query-version', "id": null}`);
    expect(client.lines()).toEqual([
      '{"return": [], "id": {"a": [1, 2.5, null, true, "\\u00E9"], "b": 1}}',
      '{"id": 18446744073709551615, "error": {"class": "CommandNotFound", "desc": "The command nonsense has not been found"}}',
      '{"return": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "id": null}',
    ]);
  });

  it.each([
    ["[]", "QMP input must be a JSON object"],
    ['{"arguments":{}}', "QMP input lacks member 'execute'"],
    ['{"execute":1}', "QMP input member 'execute' must be a string"],
    ['{"foo":1,"execute":1}', "QMP input member 'execute' must be a string"],
    ['{"execute":"query-jobs","arguments":[]}', "QMP input member 'arguments' must be an object"],
    ['{"execute":"query-jobs","foo":1}', "QMP input member 'foo' is unexpected"],
    ['{"exec-oob":"query-jobs"}', "QMP input member 'exec-oob' is unexpected"],
    ['{"__proto__":1,"execute":"query-jobs"}', "QMP input member '__proto__' is unexpected"],
    ['{"execute":"query-jobs","arguments":{"__proto__":1}}', "Parameter '__proto__' is unexpected"],
    ['{"execute":"block-stream"}', "Parameter 'device' is missing"],
    ['{"execute":"block-stream","arguments":{"device":1}}', "Invalid parameter type for 'device', expected: string"],
    ['{"execute":"block-stream","arguments":{"device":"a","bogus":1}}', "Parameter 'bogus' is unexpected"],
    ['{"execute":"block-stream","arguments":{"device":"a","speed":1.5}}', SPEED_TYPE()],
    ['{"execute":"block-stream","arguments":{"device":"a","speed":9223372036854775808}}', SPEED_TYPE()],
    [
      '{"execute":"block-stream","arguments":{"device":"a","speed":9007199254740993}}',
      "Parameter 'speed' expects a value from -(2^53 - 1) to 2^53 - 1",
    ],
    [
      '{"execute":"block-stream","arguments":{"device":"a","on-error":"foo"}}',
      "Parameter 'on-error' does not accept value 'foo'",
    ],
    ['{"execute":"block-stream","arguments":{"device":"a\\u0000"}}', "Parameter 'device' contains a NUL character"],
    ['{"execute":"blockdev-add"}', "Parameter 'driver' is missing"],
    ['{"execute":"blockdev-add","arguments":{"driver":"x"}}', "Parameter 'driver' does not accept value 'x'"],
    ['{"execute":"blockdev-add","arguments":{"driver":"file"}}', "'node-name' must be specified for the root node"],
    [
      '{"execute":"blockdev-add","arguments":{"driver":"layer","node-name":"x","file":{"driver":"file","filename":"a\\u0000b"}}}',
      "Parameter 'file.filename' contains a NUL character",
    ],
    ['{"execute":"blockdev-del","arguments":{"node-name":"x"}}', "Failed to find node with node-name='x'"],
    ['{"execute":"job-pause","arguments":{"id":"x"}}', "Job not found"],
    ['{"a":}', "JSON parse error, expecting value"],
  ])("refuses %s", (request, desc) => {
    const client = new MonitorRig().qmp();
    client.say(request);
    expect(client.lines()).toEqual([failure(desc)]);
  });

  it("finds block jobs by their class of error", () => {
    const client = new MonitorRig().qmp();
    for (const verb of ["pause", "resume", "cancel", "complete"])
      expect(client.execute(`block-job-${verb}`, { device: "x" })).toEqual([
        `{"id": 0, ${failure("Block job 'x' not found", "DeviceNotActive").slice(1)}`,
      ]);
  });

  it("has every command that it lists, and lists every command that it has", () => {
    const client = new MonitorRig().qmp();
    const [reply] = client.execute("query-commands");
    const names: string[] = JSON.parse(reply ?? "").return.map((entry: { name: string }) => entry.name);
    expect(new Set(names).size).toBe(names.length);
    expect(names).toContain("block-stream");
    for (const name of names.filter((each) => each !== "quit")) {
      client.say({ execute: name, arguments: { bogus: 1 } });
      expect(client.take()).not.toContain("has not been found");
    }
  });
});

function SPEED_TYPE(): string {
  return "Invalid parameter type for 'speed', expected: integer";
}

describe("jobs through QMP", () => {
  it("tells a success in QEMU's order: the start before the reply, the end after it", () => {
    const { all, until } = streamRig();
    expect(until("null")).toEqual([
      "created",
      "running",
      '{"return": {}, "id": 0}',
      "waiting",
      "pending",
      "BLOCK_JOB_COMPLETED",
      "concluded",
      "null",
    ]);
    expect(all[5]).toBe(
      '{"event": "BLOCK_JOB_COMPLETED", "data": {"device": "j", "len": 8388608, "offset": 8388608, "speed": 0, "type": "stream"}}',
    );
  });

  it("fills the image and drops the chain", () => {
    const { rig, client, until } = streamRig();
    until("null");
    expect(rig.graph.node("top")?.children.backing).toBeNull();
    const [info] = client.execute("query-named-block-nodes");
    expect(JSON.parse(info ?? "").return.find((node: Record<string, unknown>) => node["node-name"] === "top")).toEqual({
      "node-name": "top",
      drv: "layer",
      ro: false,
      file: "top",
      backing_file_depth: 0,
      image: { filename: "top", format: "layer", "virtual-size": DISK_BYTES, "dirty-flag": false },
      encrypted: false,
      cache: { writeback: true, direct: false, "no-flush": false },
      detect_zeroes: "off",
      write_threshold: 0,
      bps: 0,
      bps_rd: 0,
      bps_wr: 0,
      iops: 0,
      iops_rd: 0,
      iops_wr: 0,
    });
  });

  it("waits for finalize and dismiss when it is told to", () => {
    const { client, until } = streamRig({ "auto-finalize": false, "auto-dismiss": false });
    expect(until("BLOCK_JOB_PENDING").slice(3)).toEqual(["waiting", "pending", "BLOCK_JOB_PENDING"]);
    expect(story(client.execute("job-finalize", { id: "j" }))).toEqual([
      "BLOCK_JOB_COMPLETED",
      "concluded",
      '{"return": {}, "id": 0}',
    ]);
    expect(client.execute("query-jobs")).toEqual([
      '{"return": [{"current-progress": 8388608, "status": "concluded", "total-progress": 8388608, "type": "stream", "id": "j"}], "id": 0}',
    ]);
    expect(story(client.execute("job-dismiss", { id: "j" }))).toEqual(["null", '{"return": {}, "id": 0}']);
  });

  it("shows the effect of pause, resume and cancel before the reply", () => {
    const { client } = streamRig({ speed: 1 });
    expect(story(client.execute("block-job-pause", { device: "j" }))).toEqual(["paused", '{"return": {}, "id": 0}']);
    expect(client.execute("block-job-pause", { device: "j" })[0]).toContain("Job is already paused");
    expect(client.execute("block-job-cancel", { device: "j" })[0]).toContain(
      "The block job for device 'j' is currently paused",
    );
    expect(story(client.execute("job-resume", { id: "j" }))).toEqual(["running", '{"return": {}, "id": 0}']);
    expect(story(client.execute("block-job-cancel", { device: "j" }))).toEqual([
      "aborting",
      "BLOCK_JOB_CANCELLED",
      "concluded",
      "null",
      '{"return": {}, "id": 0}',
    ]);
  });

  it("stops at an error when it is told to, and goes on from there", () => {
    const rig = new MonitorRig();
    const client = rig.qmp();
    rig.addChain(client);
    rig.trouble.error = new BlockError("ENOSPC", "full");
    const lines = client.execute("block-stream", { device: "top", "job-id": "j", "on-error": "stop" });
    const seen = (event: string) => (): boolean => {
      lines.push(...client.lines());
      return story(lines).includes(event);
    };
    rig.until(seen("paused"));
    expect(lines.slice(3)).toEqual([
      '{"event": "BLOCK_JOB_ERROR", "data": {"device": "j", "operation": "write", "action": "stop"}}',
      '{"event": "JOB_STATUS_CHANGE", "data": {"status": "paused", "id": "j"}}',
    ]);
    const [info] = client.execute("query-block-jobs");
    expect(JSON.parse(info ?? "").return[0]).toMatchObject({ "io-status": "nospace", offset: 0, paused: true });
    rig.trouble.error = undefined;
    lines.push(...client.execute("block-job-resume", { device: "j" }));
    rig.until(seen("null"));
    expect(story(lines)).toContain("BLOCK_JOB_COMPLETED");
  });

  it("refuses what touches a node that a job uses", () => {
    const { client } = streamRig({ speed: 1 });
    const busy = "Node 'top' is busy: block device is in use by block job: stream";
    expect(client.execute("block-stream", { device: "top", "job-id": "k" })[0]).toContain(busy);
    expect(client.execute("blockdev-del", { "node-name": "top" })[0]).toContain(busy);
    expect(client.execute("block-stream", { device: "top" })[0]).toContain(busy);
  });
});

describe("quit", () => {
  it("cancels the jobs, tells it, answers, and then ends the program once", () => {
    const { rig, client } = streamRig({ speed: 1 });
    const second = rig.qmp();
    client.say('{"execute":"quit","id":0}{"execute":"query-jobs"}');
    rig.until(() => rig.quits > 0);
    expect(story(client.lines())).toEqual([
      "aborting",
      "BLOCK_JOB_CANCELLED",
      "concluded",
      "null",
      '{"return": {}, "id": 0}',
    ]);
    second.say({ execute: "query-jobs" });
    expect(story(second.lines()).slice(-1)).toEqual(["null"]);
    expect(rig.quits).toBe(1);
  });

  it("announces the shutdown first when the program stands for a virtual machine", () => {
    const rig = new MonitorRig({ announceShutdown: true });
    const client = rig.qmp();
    expect(story(client.execute("quit"))).toEqual(["SHUTDOWN", '{"return": {}, "id": 0}']);
    expect(rig.quits).toBe(1);
  });

  it("ends the program also when the client that asked for it is gone", () => {
    const { rig, client } = streamRig({ speed: 1 });
    client.say({ execute: "quit" });
    client.gone = true;
    client.session.end();
    rig.until(() => rig.quits > 0);
    expect(rig.quits).toBe(1);
  });
});

describe("clients that mean harm", () => {
  it("answers a valid command behind any garbage", () => {
    const garbage = [
      "\xff\xfe\x00\x01",
      "{".repeat(5000),
      '"unterminated',
      "}}}]]]",
      "[".repeat(1e5),
      '{"a":"\ud800"}'.repeat(10),
      "\u001b[2J\u0000",
      '{"execute":"quit"'.repeat(2),
    ];
    for (const each of garbage) {
      const client = new MonitorRig().qmp();
      client.sayBytes(Buffer.from(each, "latin1"));
      // A control character and structure that no open value survives, as python's client sends it.
      client.sayBytes(Buffer.from(`\xff\n${"]}".repeat(3000)}`, "latin1"));
      client.take();
      client.say('{"execute":"query-jobs","id":"alive"}');
      expect(client.lines().at(-1)).toBe('{"return": [], "id": "alive"}');
    }
  });

  it("takes a command byte by byte", () => {
    const client = new MonitorRig().qmp();
    for (const byte of Buffer.from('{"execute": "query-jobs", "id": "slow"}')) client.sayBytes(Uint8Array.of(byte));
    expect(client.lines()).toEqual(['{"return": [], "id": "slow"}']);
  });

  it("serves 1,000 clients, and forgets them when they go", () => {
    const rig = new MonitorRig();
    const clients = Array.from({ length: 1000 }, () => rig.qmp());
    rig.monitor.emit("RESUME");
    for (const client of clients) expect(client.lines()).toEqual(['{"event": "RESUME"}']);
    expect(rig.monitor.sessionCount).toBe(1000);
    for (const [index, client] of clients.entries()) {
      if (index % 2 === 0) client.gone = true;
      else client.session.end();
    }
    rig.settle();
    rig.monitor.emit("RESUME");
    expect(rig.monitor.sessionCount).toBe(0);
    for (const [index, client] of clients.entries()) expect(client.closed).toBe(index % 2 === 1);
  });

  it("answers what was sent before the end, and then closes", () => {
    const rig = new MonitorRig();
    const client = rig.qmp();
    client.session.receive(Buffer.from('{"execute":"query-jobs","id":1}{"execute":"query-jobs","id":2}{"exec'));
    client.session.end();
    expect(client.take()).toBe("");
    rig.settle();
    expect(client.lines()).toEqual(['{"return": [], "id": 1}', '{"return": [], "id": 2}']);
    expect(client.closed).toBe(true);
    client.say({ execute: "query-jobs" });
    expect(client.lines()).toEqual([]);
  });

  it("cuts off a client that sends without end while a command is at work", () => {
    const { rig, client, until } = streamRig({ "auto-finalize": false });
    until("BLOCK_JOB_PENDING");
    const other = rig.qmp();
    const megabyte = Buffer.alloc(1024 * 1024, " ");
    other.say({ execute: "job-finalize", arguments: { id: "j" } });
    const slow = new MonitorRig().qmp();
    // Nothing runs between these, as while a command waits.
    for (let sent = 0; sent <= WAITING_BYTES_MAX && !slow.closed; sent += megabyte.length)
      slow.session.receive(megabyte);
    expect(slow.closed).toBe(true);
    expect(client.closed).toBe(false);
  });

  it("does not answer, nor fail, when the client is gone in the middle of its commands", () => {
    const rig = new MonitorRig();
    const client = rig.qmp();
    client.gone = true;
    client.say('{"execute":"query-jobs"}'.repeat(1000));
    expect(client.take()).toBe("");
    expect(rig.monitor.sessionCount).toBe(0);
  });
});

describe("commands of several clients", () => {
  it("opens one of two nodes that were asked for by one name", () => {
    const rig = new MonitorRig();
    const clients = [rig.qmp(), rig.qmp()];
    const file = { driver: "file", filename: "base" };
    const request = { execute: "blockdev-add", arguments: { driver: "layer", "node-name": "n", size: 0, file } };
    for (const client of clients) client.session.receive(Buffer.from(JSON.stringify(request)));
    rig.settle();
    expect(clients.flatMap((client) => client.lines()).sort()).toEqual([
      failure("Duplicate nodes with node-name='n'"),
      OK,
    ]);
  });
});
