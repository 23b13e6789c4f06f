/**
 * What each package offers, as a list of names in public-api.txt. A change of it is a change for users: make it on
 * purpose, with `npx vitest run test/workspace -u`.
 */
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { readWorkspace } from "./workspace.ts";

test("packages export what public-api.txt lists", async () => {
  const { packages } = readWorkspace(fileURLToPath(new URL("../..", import.meta.url)));
  const lines: string[] = [];
  for (const { name, manifest } of packages) {
    if (manifest.exports?.["."] === undefined) continue;
    const exported: object = await import(name);
    lines.push(...Object.keys(exported).map((one) => `${name}: ${one}`));
  }
  await expect(`${lines.sort().join("\n")}\n`).toMatchFileSnapshot("public-api.txt");
});
