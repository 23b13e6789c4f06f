/** `stop`, `cont` and `query-status`, and the errors of a machine's requests. */
import { describe, expect, it } from "vitest";
import { MonitorRig } from "./monitor-rig.ts";
import { TestMachine } from "./test-machine.ts";

const STATE = '{"return": {"status": "running", "singlestep": false, "running": true}, "id": 0}';
const DONE = '{"return": {}, "id": 0}';

describe("a monitor of a program that serves a machine", () => {
  it("stops and resumes it, and tells each change once, before the reply", () => {
    const machine = new TestMachine();
    const client = new MonitorRig({ machine }).qmp();
    expect(client.execute("query-status")).toEqual([STATE]);
    expect(client.execute("cont")).toEqual([DONE]);
    expect(client.execute("stop")).toEqual(['{"event": "STOP"}', DONE]);
    expect(machine.stopped).toBe(true);
    expect(client.execute("stop")).toEqual([DONE]);
    expect(client.execute("query-status")).toEqual([
      '{"return": {"status": "paused", "singlestep": false, "running": false}, "id": 0}',
    ]);
    expect(client.execute("cont")).toEqual(['{"event": "RESUME"}', DONE]);
    expect(machine.stopped).toBe(false);
  });

  it("tells errors, and that one has stopped the machine, as QEMU does", () => {
    const machine = new TestMachine();
    const rig = new MonitorRig({ machine });
    const client = rig.qmp();
    const error = { operation: "read", action: "stop", nospace: false, reason: "EIO" } as const;
    rig.monitor.tellIoError({ ...error, action: "report" });
    machine.stopped = true;
    rig.monitor.tellIoError(error);
    rig.monitor.tellIoError({ ...error, operation: "write", reason: "ENOSPC", nospace: true });
    const told = (nospace: boolean, reason: string, operation: string, action: string) =>
      `{"event": "BLOCK_IO_ERROR", "data": {"device": "", "nospace": ${nospace}, "node-name": "disk0", "reason": "${reason}", "operation": "${operation}", "action": "${action}"}}`;
    expect(client.lines()).toEqual([
      told(false, "Input/output error", "read", "report"),
      told(false, "Input/output error", "read", "stop"),
      '{"event": "STOP"}',
      told(true, "No space left on device", "write", "stop"),
    ]);
    const people = rig.hmp();
    people.take();
    people.say("info status\n");
    expect(people.take()).toContain("VM status: paused (io-error)\r\n");
    expect(client.execute("stop")).toEqual([DONE]);
    expect(client.execute("cont")).toEqual(['{"event": "RESUME"}', DONE]);
  });

  it("does not say that it has stopped when it goes on already", () => {
    const rig = new MonitorRig({ machine: new TestMachine() });
    const client = rig.qmp();
    rig.monitor.tellIoError({ operation: "read", action: "stop", nospace: false, reason: "EIO" });
    expect(client.lines()).toHaveLength(1);
    expect(client.execute("query-status")).toEqual([STATE]);
  });
});

describe("a monitor of a program that serves none", () => {
  it("has none of these commands", () => {
    const client = new MonitorRig().qmp();
    const [commands] = client.execute("query-commands");
    for (const name of ["stop", "cont", "query-status"]) {
      expect(client.execute(name).at(-1)).toContain(`The command ${name} has not been found`);
      expect(commands).not.toContain(`"${name}"`);
    }
  });
});
