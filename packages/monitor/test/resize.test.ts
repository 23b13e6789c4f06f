/** `block_resize`, through QMP and HMP: the node's length, and whoever is told of it. */
import { MiB } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { DISK_BYTES, MonitorRig } from "./monitor-rig.ts";

function addFile(rig: MonitorRig, nodeName: string): void {
  rig.files.put(nodeName, MiB);
  rig.qmp().execute("blockdev-add", { driver: "file", "node-name": nodeName, filename: nodeName });
}

describe("block_resize", () => {
  it("makes a node longer and shorter, and tells whoever serves it", () => {
    const rig = new MonitorRig();
    addFile(rig, "disk");
    const node = rig.graph.lookup("disk");
    const lengths: number[] = [];
    node.onLength((length) => lengths.push(length));
    const client = rig.qmp();
    expect(client.execute("block_resize", { "node-name": "disk", size: 3 * MiB })).toEqual(['{"return": {}, "id": 0}']);
    expect(client.execute("block_resize", { device: "disk", size: 512 })).toEqual(['{"return": {}, "id": 0}']);
    const people = rig.hmp();
    people.take();
    people.say("block_resize disk 2\n");
    people.say("block_resize disk 5k\n");
    expect(people.take()).toBe("(qemu) (qemu) ");
    expect(lengths).toEqual([3 * MiB, 512, 2 * MiB, 5 * 1024]);
    expect(node.length).toBe(5 * 1024);
  });

  it("leaves alone what a job has, and what another node stands on", () => {
    const rig = new MonitorRig();
    const client = rig.qmp();
    rig.addChain(client);
    const resize = (name: string) => client.execute("block_resize", { "node-name": name, size: DISK_BYTES }).at(-1);
    expect(resize("base")).toContain("Node 'base' is busy: node is used by 'top'");
    client.execute("block-stream", { device: "top", "job-id": "j", speed: 1 });
    expect(resize("top")).toContain("Node 'top' is busy: block device is in use by block job: stream");
    client.execute("block-job-cancel", { device: "j", force: true });
    expect(resize("top")).toContain("a layer keeps its length");
  });
});
