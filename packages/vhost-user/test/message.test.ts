import { describe, expect, it } from "vitest";
import * as message from "../src/message.ts";

const EINVAL = expect.objectContaining({ code: "EINVAL" });

/** A message's header with these three words. */
function header(request: number, flags: number, length: number): Uint8Array {
  return new Uint8Array(new Uint32Array([request, flags, length]).buffer);
}

describe("messages", () => {
  it("come back from their bytes", () => {
    const payload = message.encodeVringState({ index: 3, value: 0xffff_ffff });
    const bytes = message.encodeMessage(8, payload, { needReply: true });
    expect(message.decodeHeader(bytes)).toEqual({ request: 8, isReply: false, needsReply: true, length: 8 });
    expect(message.decodeVringState(bytes.subarray(message.HEADER_BYTES))).toEqual({ index: 3, value: 0xffff_ffff });
    const reply = message.encodeMessage(8, payload, { reply: true });
    expect(message.decodeHeader(reply)).toMatchObject({ isReply: true, needsReply: false });
  });

  it("lie as the specification says: little-endian, version 1 in the flags", () => {
    const bytes = message.encodeMessage(message.VhostRequest.SET_FEATURES, message.encodeBits({ low: 5, high: 1 }));
    expect([...bytes]).toEqual([2, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0]);
    const addresses = message.encodeVringAddresses({ index: 1, descriptors: 2, used: 3, available: 4 });
    expect([...new BigUint64Array(addresses.buffer)]).toEqual([1n, 2n, 3n, 4n, 0n]);
  });

  it("of another version, or longer than any known, are refused", () => {
    expect(() => message.decodeHeader(header(1, 0, 0))).toThrow(EINVAL);
    expect(() => message.decodeHeader(header(1, 2, 0))).toThrow(EINVAL);
    expect(() => message.decodeHeader(header(1, 1, message.PAYLOAD_BYTES_MAX + 1))).toThrow(EINVAL);
    expect(() => message.decodeHeader(header(1, 1, 0xffff_ffff))).toThrow(EINVAL);
  });

  it.each([
    ["bits", 8, message.decodeBits],
    ["vring state", 8, message.decodeVringState],
    ["vring addresses", 40, message.decodeVringAddresses],
    ["vring descriptor", 8, message.decodeVringDescriptor],
    ["memory table", 8, message.decodeMemoryTable],
    ["configuration", 12, message.decodeConfig],
  ] as const)("with a payload of any other size are refused: %s", (_name, size, decode) => {
    decode(new Uint8Array(size));
    for (let length = 0; length < 64; length++)
      if (length !== size) expect(() => decode(new Uint8Array(length)), `${length} bytes`).toThrow(EINVAL);
  });

  it("hold no numbers that are too large to count with", () => {
    const addresses = new BigUint64Array([0n, 2n ** 53n, 0n, 0n, 0n]);
    expect(() => message.decodeVringAddresses(new Uint8Array(addresses.buffer))).toThrow(EINVAL);
    const table = new BigUint64Array([1n, 0n, 2n ** 64n - 1n, 0n, 0n]);
    expect(() => message.decodeMemoryTable(new Uint8Array(table.buffer))).toThrow(EINVAL);
  });

  it("count their own parts", () => {
    const table = message.encodeMemoryTable([{ guestAddress: 1, length: 2, userAddress: 3, fileOffset: 4 }]);
    expect(message.decodeMemoryTable(table)).toHaveLength(1);
    table[0] = 2;
    expect(() => message.decodeMemoryTable(table)).toThrow(EINVAL);
    table[0] = 9;
    expect(() => message.decodeMemoryTable(table)).toThrow(EINVAL);
    const piece = message.encodeConfig({ offset: 0, flags: 0, bytes: new Uint8Array(256) });
    expect(message.decodeConfig(piece).bytes).toHaveLength(256);
    expect(() =>
      message.decodeConfig(message.encodeConfig({ offset: 0, flags: 0, bytes: new Uint8Array(257) })),
    ).toThrow(EINVAL);
  });

  it("tell queues with a descriptor from those without, and know no other flags", () => {
    const decode = message.decodeVringDescriptor;
    expect(decode(message.encodeVringDescriptor({ index: 7, given: true }))).toEqual({ index: 7, given: true });
    expect(decode(message.encodeVringDescriptor({ index: 7, given: false }))).toEqual({ index: 7, given: false });
    expect(() => decode(message.encodeBits({ low: 0x200, high: 0 }))).toThrow(EINVAL);
    expect(() => decode(message.encodeBits({ low: 0, high: 1 }))).toThrow(EINVAL);
  });
});
