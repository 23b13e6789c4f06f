/**
 * What each package offers, as a list of names in public-api.json. A change of it is a change for users: make it on
 * purpose, with `npx vitest run test/workspace -u`.
 */
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { readWorkspace } from "./workspace.ts";

test("packages export what public-api.json lists", async () => {
  const { packages } = readWorkspace(fileURLToPath(new URL("../..", import.meta.url)));
  const api: Record<string, string[]> = {};
  for (const { name, manifest } of packages.toSorted((left, right) => (left.name < right.name ? -1 : 1))) {
    if (manifest.exports?.["."] === undefined) continue;
    const exported: object = await import(name);
    api[name] = Object.keys(exported).sort();
  }
  await expect(`${JSON.stringify(api, null, 2)}\n`).toMatchFileSnapshot("public-api.json");
});
