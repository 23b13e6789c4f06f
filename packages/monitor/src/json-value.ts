/** JSON values as the monitor's reader makes them. Objects have no prototype, so that no key means anything special. */

/** Whole numbers above 2^53 - 1, and below its negative, are bigints; everything else fits a number. */
export type JsonValue = null | boolean | number | bigint | string | JsonValue[] | JsonObject;

export interface JsonObject {
  [key: string]: JsonValue;
}

/** An object without a prototype, empty or with the entries of `entries`. */
export function jsonObject(entries: Readonly<Record<string, JsonValue>> = {}): JsonObject {
  return Object.assign(Object.create(null) as JsonObject, entries);
}

export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
