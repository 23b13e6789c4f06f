/** Where the content of disks stands, as `qemu-img map` tells it of images whose files have holes. */
import { peer } from "@spindle/testkit/peers";
import { openDisk } from "spindle";
import { expect, it } from "vitest";
import { Scratch } from "./scratch.ts";

const qemuImg = peer("qemu-img");
const qemuIo = peer("qemu-io");

it.skipIf(qemuImg === undefined || qemuIo === undefined).each([
  ["preallocated metadata", "preallocation=metadata"],
  ["preallocated metadata in small clusters", "preallocation=metadata,cluster_size=4k"],
  ["preallocated metadata and subclusters", "preallocation=metadata,extended_l2=on"],
  ["preallocated space", "preallocation=falloc"],
  ["nothing preallocated", "preallocation=off"],
  ["a data file", "preallocation=metadata,data_file=data.raw"],
])("the map of an image with %s is QEMU's", async (_what, options) => {
  using scratch = new Scratch();
  scratch.tool(qemuImg as string, "create", "-q", "-f", "qcow2", "-o", options, "image.qcow2", "8M");
  const commands = ["write -P 1 0 200k", "write -P 2 1M 4k", "write -z 2M 64k", "write -P 3 7M 1M"];
  scratch.tool(qemuIo as string, ...commands.flatMap((command) => ["-c", command]), "image.qcow2");
  const theirs = JSON.parse(scratch.tool(qemuImg as string, "map", "--output=json", "image.qcow2")) as object[];
  await using disk = await openDisk(scratch.path("image.qcow2"), { readOnly: true });
  const ours: object[] = [];
  for await (const { compressed: _compressed, filename: _filename, ...run } of disk.map()) ours.push(run);
  expect(ours).toEqual(theirs);
});
