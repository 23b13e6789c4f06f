import { BlockError, isBlockError } from "@spindle/base";
import { describe, expect, it } from "vitest";
import { CopyChannel } from "../src/copy-channel.ts";

describe("the channel between the owner and a copy worker", () => {
  it("carries commands and completions both ways, in order, with offsets up to 2^53 - 1", () => {
    const handle = CopyChannel.create(3, 4);
    const owner = new CopyChannel(handle);
    const worker = new CopyChannel(handle);
    const guestOffset = Number.MAX_SAFE_INTEGER;
    const command = { slot: 2, guestOffset, dataLength: 7, length: 8, hostOffset: guestOffset - 1 };
    expect(worker.hasCommand).toBe(false);
    owner.pushCommand(command);
    owner.pushCommand({ ...command, slot: 0 });
    expect(worker.hasCommand).toBe(true);
    expect(worker.popCommand()).toEqual(command);
    expect(worker.popCommand()?.slot).toBe(0);
    expect(worker.popCommand()).toBeUndefined();
    worker.zeroMask(2, 4).set([1, 0, 0, 1]);
    worker.zeroMask(0, 4).set([0, 1, 1, 0]);
    worker.pushCompletion({ slot: 2, failed: undefined, idleMs: 1.5 });
    worker.pushCompletion({ slot: 0, failed: "write", idleMs: 0 });
    expect(owner.hasCompletion).toBe(true);
    expect(owner.popCompletion()).toEqual({ slot: 2, failed: undefined, idleMs: 1.5 });
    expect([...owner.zeroMask(2, 4)]).toEqual([1, 0, 0, 1]);
    expect(owner.popCompletion()).toEqual({ slot: 0, failed: "write", idleMs: 0 });
    expect(owner.popCompletion()).toBeUndefined();
    expect(worker.stopped).toBe(false);
    owner.stop();
    expect(worker.stopped).toBe(true);
  });

  it("carries errors with their code, and cuts those that are too long", () => {
    const handle = CopyChannel.create(2, 1);
    const channel = new CopyChannel(handle);
    channel.setError(0, new BlockError("ENOSPC", "no room — keiner mehr", { offset: 5, operation: "write" }));
    channel.setError(1, new BlockError("EACCES", "x".repeat(10_000), { path: "p".repeat(10_000) }));
    const error = channel.error(0);
    expect(isBlockError(error, "ENOSPC")).toBe(true);
    expect(error.message).toBe("no room — keiner mehr");
    expect(isBlockError(channel.error(1), "EACCES")).toBe(true);
    channel.setError(0, new TypeError("a bug"));
    expect(isBlockError(channel.error(0), "EIO")).toBe(true);
  });
});
