/** The README's example, taken from the page and run as it stands there. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import * as spindle from "../src/index.ts";

const README = readFileSync(new URL("../../../README.md", import.meta.url), "utf8");

/** The first TypeScript block, as the body of an asynchronous function. */
function example(): string {
  const block = /```ts\n([\s\S]*?)```/.exec(README)?.[1];
  if (block === undefined) throw new Error("the README has no example");
  const body = block.replace(/^import .*from "spindle";$/m, "").replace("await using disk", "const disk");
  return `${body}\nawait disk.close();`;
}

it("the README's example makes an overlay stand alone while it is in use", async () => {
  const folder = mkdtempSync(join(tmpdir(), "spindle-readme-"));
  const named = example().replaceAll(/"([a-z]+\.qcow2)"/g, (_, name) => JSON.stringify(join(folder, name)));
  try {
    await spindle.createImage(join(folder, "base.qcow2"), { format: "qcow2", size: 16 * 1024 * 1024 });
    await using base = await spindle.openDisk(join(folder, "base.qcow2"));
    await base.write(0, new Uint8Array(65_536).fill(1));
    await base.close();
    const lines: string[] = [];
    const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor;
    const run = new AsyncFunction("createImage", "openDisk", "console", named);
    await run(spindle.createImage, spindle.openDisk, { log: (line: string) => lines.push(line) });
    expect(lines.at(-1)).toMatch(/^the image stands alone after [\d.]+ s$/);
    await using disk = await spindle.openDisk(join(folder, "vm.qcow2"), { readOnly: true });
    expect((await disk.info())["backing-filename"]).toBeUndefined();
    expect((await disk.read(0, 1))[0]).toBe(1);
    expect((await disk.read(65_536, 4096)).every((byte) => byte === 7)).toBe(true);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
