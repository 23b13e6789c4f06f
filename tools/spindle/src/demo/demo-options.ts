/** The options of `spindle demo`. */
import { parseArgs } from "node:util";
import { BlockError, parseSize } from "@spindle/base";

export interface DemoOptions {
  /** An image of the user's own as the base; the demo makes one when it is absent. */
  readonly image: string | undefined;
  readonly format: string | undefined;
  readonly guests: number;
  readonly workers: number;
  /** Bytes of one copy; the stream's own choice when absent. */
  readonly chunk: number | undefined;
  readonly seed: number;
  /** How long the guests run before the stream begins, and again after it has ended. */
  readonly seconds: number;
  readonly json: boolean;
}

export const DEMO_USAGE = `Usage: spindle demo [options]

Streams a backing image into an overlay while guests use it, and verifies every sector.

  --image FILE     use this image as the read-only base (default: a 1 GiB qcow2 image made for the demo)
  --format FORMAT  the base's format (default: found by looking at it)
  --guests N       guest workers, each with its own virtqueue, 1 to 16 (default 4)
  --workers N      copy workers, 1 to 16 (default 2)
  --chunk SIZE     bytes of one copy (default: chosen by the stream)
  --seed N         the seed of the guests' I/O (default 1)
  --seconds N      how long the guests run before and after the stream (default 8)
  --json           write the result as one JSON object`;

/** @throws {BlockError} EINVAL when an option is unknown or out of range. */
export function parseDemoOptions(argv: readonly string[]): DemoOptions {
  const values = parse(argv);
  return {
    image: values.image,
    format: values.format,
    guests: wholeNumber("guests", values.guests ?? "4", 1, 16),
    workers: wholeNumber("workers", values.workers ?? "2", 1, 16),
    chunk: values.chunk === undefined ? undefined : chunkSize(values.chunk),
    seed: wholeNumber("seed", values.seed ?? "1", 0, 2 ** 31),
    seconds: wholeNumber("seconds", values.seconds ?? "8", 1, 86_400),
    json: values.json === true,
  };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        image: { type: "string" },
        format: { type: "string" },
        guests: { type: "string" },
        workers: { type: "string" },
        chunk: { type: "string" },
        seed: { type: "string" },
        seconds: { type: "string" },
        json: { type: "boolean" },
      },
    }).values;
  } catch (error) {
    throw new BlockError("EINVAL", (error as Error).message);
  }
}

function wholeNumber(name: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < least || value > most)
    throw new BlockError("EINVAL", `--${name} is a whole number from ${least} to ${most}, not '${text}'`);
  return value;
}

function chunkSize(text: string): number {
  const size = parseSize(text);
  if (size < 65_536 || size > 64 * 1024 * 1024) throw new BlockError("EINVAL", `--chunk is 64k to 64M, not '${text}'`);
  return size;
}
