/** Secrets whose data may stand in files of the host. */
import { readFileSync } from "node:fs";
import { SecretStore } from "@spindle/block";
import { hostError } from "./host-errors.ts";

/** An empty store. */
export function nodeSecrets(): SecretStore {
  return new SecretStore((path) => {
    try {
      return readFileSync(path);
    } catch (error) {
      throw hostError(error, `Unable to read ${path}: Failed to open file “${path}”`, { operation: "open", path });
    }
  });
}
