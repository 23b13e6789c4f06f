/** Dirty bitmaps through QMP: what is added, told and merged. */
import { describe, expect, it } from "vitest";
import { DISK_BYTES, MonitorRig } from "./monitor-rig.ts";

const OK = '{"return": {}, "id": 0}';

describe("block-dirty-bitmap commands", () => {
  it("add, tell, disable, merge and remove bitmaps of a node", () => {
    const rig = new MonitorRig();
    const client = rig.qmp();
    rig.addChain(client);
    const bitmap = (verb: string, argumentValues: object) =>
      client.execute(`block-dirty-bitmap-${verb}`, { node: "top", ...argumentValues }).at(-1);
    expect(bitmap("add", { name: "b0", granularity: 4096 })).toBe(OK);
    expect(bitmap("add", { name: "b1", granularity: 65_536, disabled: true })).toBe(OK);
    const node = rig.graph.lookup("top");
    node.bitmaps.mark(8192, 8192);
    expect(bitmap("merge", { target: "b1", bitmaps: ["b0", { node: "top", name: "b0" }] })).toBe(OK);
    const told = (): string =>
      /"dirty-bitmaps": (\[[^\]]*\])/.exec(
        client.execute("query-named-block-nodes", { flat: true }).at(-1) ?? "",
      )?.[1] ?? "";
    expect(JSON.parse(told())).toEqual([
      { name: "b1", granularity: 65_536, count: 65_536, recording: false, busy: false, persistent: false },
      { name: "b0", granularity: 4096, count: 8192, recording: true, busy: false, persistent: false },
    ]);
    expect(bitmap("clear", { name: "b0" })).toBe(OK);
    expect(bitmap("disable", { name: "b0" })).toBe(OK);
    expect(bitmap("enable", { name: "b1" })).toBe(OK);
    node.bitmaps.mark(DISK_BYTES - 1, 1);
    expect(JSON.parse(told())).toMatchObject([{ count: 2 * 65_536 }, { count: 0 }]);
    expect(bitmap("merge", { target: "b1", bitmaps: ["gone"] })).toContain("Dirty bitmap 'gone' not found");
    expect(bitmap("remove", { name: "b0" })).toBe(OK);
    expect(bitmap("remove", { name: "b0" })).toContain("Dirty bitmap 'b0' not found");
    expect(bitmap("add", { name: "p", persistent: true })).toContain("Can't store persistent bitmaps to top");
  });
});
