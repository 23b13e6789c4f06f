/** The values of `--object`, which are secrets: `secret,KEY=VALUE,...`, or JSON. */
import type { SecretStore } from "@spindle/block";
import { nodeSecrets } from "@spindle/host-node";
import { UsageError } from "./command.ts";
import { parsePairs } from "./key-value.ts";

/** Reads them all, with their files. @throws {BlockError} with QEMU's text when one is no secret. */
export function parseObjects(texts: readonly string[]): SecretStore {
  const store = nodeSecrets();
  for (const text of texts) store.create(text.trimStart().startsWith("{") ? parseJson(text) : parseProperties(text));
  return store;
}

function parseProperties(text: string): Readonly<Record<string, unknown>> {
  const [first = ""] = text.split(",");
  return Object.fromEntries(parsePairs(first.includes("=") ? text : `qom-type=${text}`));
}

function parseJson(text: string): Readonly<Record<string, unknown>> {
  try {
    return JSON.parse(text) as Readonly<Record<string, unknown>>;
  } catch (error) {
    throw new UsageError(`--object: ${(error as Error).message}`);
  }
}
