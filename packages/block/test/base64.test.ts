import { SeededRandom } from "@spindle/base";
import { forEachSeed } from "@spindle/testkit";
import { expect, it } from "vitest";
import { decodeBase64 } from "../src/base64.ts";

it("decodes what Node encodes, with or without padding and line ends", async () => {
  await forEachSeed(50, (seed) => {
    const random = new SeededRandom(seed);
    const bytes = Uint8Array.from({ length: random.below(40) }, () => random.below(256));
    const text = Buffer.from(bytes).toString("base64");
    for (const form of [text, text.replaceAll("=", ""), text.replace(/(.{7})/g, "$1\r\n"), `${text}\n`])
      expect(decodeBase64(Buffer.from(form))).toEqual(bytes);
  });
});

it("refuses other characters", () => {
  for (const text of ["a!", "YW-j", "é"]) expect(() => decodeBase64(Buffer.from(text))).toThrow(/invalid characters/);
});
