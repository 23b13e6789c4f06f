import { expect, test } from "vitest";
import { TRANSFER_LEAD_BYTES, transferBytes } from "../src/index.ts";

test("memory for transfers is zeros, as long as it was asked for, and begins where words may", () => {
  for (const length of [0, 1, 4096, 2 ** 21]) {
    const bytes = transferBytes(length);
    expect(bytes.length).toBe(length);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
    expect(bytes.byteOffset).toBe(TRANSFER_LEAD_BYTES);
  }
  expect(TRANSFER_LEAD_BYTES % 16).toBe(0);
});
