/**
 * The secrets that a user has given for opening images, by their ids: what QEMU's objects of the kind `secret` are.
 * Programs and monitors make them from properties, as `--object` and `object-add` have them.
 */
import { BlockError, encodeUtf8 } from "@spindle/base";
import { decodeBase64 } from "./base64.ts";

/** Reads a file that a user has named. @throws {BlockError} when it cannot be read. */
export type ReadSecretFile = (path: string) => Uint8Array;

const PROPERTIES: readonly string[] = ["qom-type", "id", "data", "file", "format"];
/** Those of secrets that are encrypted themselves. */
const REFUSED: readonly string[] = ["keyid", "iv"];

/** Names of QEMU's objects. */
const WELL_FORMED_ID = /^[a-zA-Z][a-zA-Z0-9._-]*$/;

export class SecretStore {
  readonly #secrets: Map<string, Uint8Array> = new Map();
  readonly #readFile: ReadSecretFile;

  constructor(readFile: ReadSecretFile = noFiles) {
    this.#readFile = readFile;
  }

  /** @throws {BlockError} EEXIST when there is one of this name. */
  add(id: string, data: Uint8Array): void {
    if (this.#secrets.has(id))
      throw new BlockError("EEXIST", `attempt to add duplicate property '${id}' to object (type 'container')`);
    this.#secrets.set(id, data);
  }

  /** Images that were opened with it stay open. @throws {BlockError} ENOENT when there is none of this name. */
  remove(id: string): void {
    if (!this.#secrets.delete(id)) throw new BlockError("ENOENT", `object '${id}' not found`);
  }

  get(id: string): Uint8Array | undefined {
    return this.#secrets.get(id);
  }

  /**
   * Adds a secret from the properties of an object: `qom-type`, `id`, `data` or `file`, and `format`.
   * @throws {BlockError} with QEMU's text when they are wrong, ENOTSUP for other objects and for encrypted secrets.
   */
  create(properties: Readonly<Record<string, unknown>>): void {
    const text = (key: string): string | undefined => {
      const value = properties[key];
      if (value === undefined || typeof value === "string") return value;
      throw invalid(`Invalid parameter type for '${key}', expected: string`);
    };
    const type = text("qom-type");
    if (type === undefined) throw invalid("Parameter 'qom-type' is missing");
    if (type !== "secret") throw invalid(`Parameter 'qom-type' does not accept value '${type}'`);
    const id = text("id");
    if (id === undefined) throw invalid("Parameter 'id' is missing");
    if (!WELL_FORMED_ID.test(id)) throw invalid("Parameter 'id' expects an identifier");
    const format = text("format") ?? "raw";
    if (format !== "raw" && format !== "base64") throw invalid(`Parameter 'format' does not accept value '${format}'`);
    for (const key of Object.keys(properties)) {
      if (REFUSED.includes(key)) throw new BlockError("ENOTSUP", `encrypted secrets are not supported: '${key}'`);
      if (!PROPERTIES.includes(key)) throw invalid(`Parameter '${key}' is unexpected`);
    }
    const raw = this.#content(text("data"), text("file"));
    this.add(id, format === "base64" ? decodeBase64(raw) : raw);
  }

  #content(data: string | undefined, file: string | undefined): Uint8Array {
    if (data !== undefined && file !== undefined) throw invalid("'file' and 'data' are mutually exclusive");
    if (data !== undefined) return encodeUtf8(data);
    if (file !== undefined) return this.#readFile(file);
    throw invalid("Either 'file' or 'data' must be provided");
  }
}

function noFiles(path: string): Uint8Array {
  throw new BlockError("ENOTSUP", `Unable to read ${path}: this host has no files`);
}

function invalid(message: string): BlockError {
  return new BlockError("EINVAL", message);
}
