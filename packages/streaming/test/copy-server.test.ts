import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BlockError, SyncRunner } from "@spindle/base";
import { BlockNode } from "@spindle/block";
import { nodeEnvironment } from "@spindle/host-node";
import { ThreadTable } from "@spindle/shared-memory";
import { MemoryDriver } from "@spindle/testkit";
import { describe, expect, it } from "vitest";
import { CopyChannel, type CopyCommand } from "../src/copy-channel.ts";
import { CopyServer } from "../src/copy-server.ts";
import { MeteredWaiter } from "../src/metered-waiter.ts";
import { patchy, sameBytes } from "./pool-world.ts";

const CLUSTER = 4096;

type Command = Pick<CopyCommand, "guestOffset" | "dataLength" | "length">;

/** Serves one command over a chain of the given bytes, to a file opened with the given flags, perhaps after another. */
function serve(content: Uint8Array, flags: string, command: Command, before?: Command) {
  const folder = mkdtempSync(join(tmpdir(), "copy-server-"));
  const path = join(folder, "target");
  writeFileSync(path, new Uint8Array(32 * CLUSTER).fill(0xee));
  const targetDescriptor = openSync(path, flags);
  const { clock } = nodeEnvironment();
  const waiter = new MeteredWaiter(new ThreadTable(ThreadTable.create()).attach(), clock);
  const runner = new SyncRunner(clock, waiter);
  const channel = new CopyChannel(CopyChannel.create(2, 8));
  const driver = new MemoryDriver(content);
  const chain = new BlockNode({
    name: "chain",
    driver,
    children: { file: null, backing: null },
    readOnly: true,
    tracker: null,
  });
  let rings = 0;
  const ringOwner = (): void => {
    rings += 1;
  };
  const sizes = { clusterSize: CLUSTER, copyBytesMax: 8 * CLUSTER };
  const server = new CopyServer({ channel, chain, targetDescriptor, runner, waiter, ringOwner, ...sizes });
  if (before !== undefined) channel.pushCommand({ slot: 0, hostOffset: 3 * CLUSTER, ...before });
  channel.pushCommand({ slot: 1, hostOffset: 3 * CLUSTER, ...command });
  channel.stop();
  runner.run(server.serve());
  closeSync(targetDescriptor);
  if (before !== undefined) channel.popCompletion();
  const completion = channel.popCompletion();
  const written = readFileSync(path);
  rmSync(folder, { recursive: true });
  return { channel, completion, written, rings };
}

describe("the work of a copy worker", () => {
  it("writes the clusters with data to their places, leaves those of zeros out, and says which they are", () => {
    const content = new Uint8Array(6 * CLUSTER);
    content.set(patchy(1, CLUSTER, 0), CLUSTER);
    content[3 * CLUSTER + 77] = 1;
    content[5 * CLUSTER - 1] = 1;
    const { channel, completion, written, rings } = serve(content, "r+", {
      guestOffset: 0,
      dataLength: 6 * CLUSTER,
      length: 6 * CLUSTER,
    });
    expect(completion).toMatchObject({ slot: 1, failed: undefined });
    expect([...channel.zeroMask(1, 6)]).toEqual([1, 0, 1, 0, 0, 1]);
    expect(rings).toBe(1);
    const expected = new Uint8Array(32 * CLUSTER).fill(0xee);
    for (const cluster of [1, 3, 4])
      expected.set(content.subarray(cluster * CLUSTER, (cluster + 1) * CLUSTER), (3 + cluster) * CLUSTER);
    expect(sameBytes(written, expected)).toBe(true);
  });

  it("fills what is behind the end of the chain, or of the disk, with zeros", () => {
    const content = new Uint8Array(4 * CLUSTER).fill(7);
    for (const [guestOffset, dataLength, kept] of [
      [3 * CLUSTER - 512, 2 * CLUSTER, CLUSTER + 512],
      [0, CLUSTER + 100, CLUSTER + 100],
    ] as const) {
      const command = { guestOffset, dataLength, length: 2 * CLUSTER };
      // The buffer has been used before.
      const { completion, written } = serve(content, "r+", command, {
        ...command,
        guestOffset: 0,
        dataLength: 2 * CLUSTER,
      });
      expect(completion).toMatchObject({ failed: undefined });
      const expected = new Uint8Array(2 * CLUSTER);
      expected.fill(7, 0, kept);
      expect(sameBytes(written.subarray(3 * CLUSTER, 5 * CLUSTER), expected)).toBe(true);
    }
  });

  it("says truthfully which half failed, and why", () => {
    const command = { guestOffset: 0, dataLength: CLUSTER, length: CLUSTER };
    const refused = serve(new Uint8Array(CLUSTER).fill(1), "r", command);
    expect(refused.completion).toMatchObject({ slot: 1, failed: "write" });
    expect((refused.channel.error(1) as BlockError).code).toBe("EIO");
    const unreadable = serve(new Uint8Array(CLUSTER), "r+", { ...command, guestOffset: -CLUSTER });
    expect(unreadable.completion).toMatchObject({ slot: 1, failed: "read" });
    expect((unreadable.channel.error(1) as BlockError).code).toBe("EINVAL");
  });
});
