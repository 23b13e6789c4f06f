/** `spindle demo`: the main job on an embedded default, and what `npm start` runs. */

import { MiB } from "@spindle/base";
import { type Command, defineCommand, numberOption, sizeOption, UsageError } from "../command.ts";
import { runDemo } from "../demo/demo.ts";

const GUESTS_DEFAULT = 4;
const WORKERS_DEFAULT = 2;
const SEED_DEFAULT = 1;
const SECONDS_DEFAULT = 8;
const CHUNK_BYTES_MAX: number = 64 * MiB;

export const demo: Command = defineCommand({
  name: "demo",
  operands: "",
  operandCount: { least: 0, most: 0, otherwise: "The demo takes no operands; name an image with --image" },
  about:
    "Streams a backing image into an overlay while guests use it, and verifies every sector: while they run, and once\n" +
    "more in the overlay when it stands alone. Ends with 0 only if nothing was lost.",
  options: {
    image: { value: "FILE", help: "use this image as the read-only base (default: a 1 GiB qcow2 image is made)" },
    format: { value: "FORMAT", help: "the base's format (default: found by looking at it)" },
    guests: { value: "N", help: `guest workers, each with its own virtqueue, 1 to 16 (default: ${GUESTS_DEFAULT})` },
    packed: { help: "packed virtqueues (default: split ones)" },
    workers: { value: "N", help: `copy workers, 1 to 16 (default: ${WORKERS_DEFAULT})` },
    chunk: { value: "SIZE", help: "bytes of one copy (default: 512k)" },
    seed: { value: "N", help: `seed of the guests' I/O (default: ${SEED_DEFAULT})` },
    seconds: { value: "N", help: `how long the guests run before and after the stream (default: ${SECONDS_DEFAULT})` },
    json: { help: "write the result as one JSON object" },
  },
  async run(values) {
    const chunk = sizeOption("chunk", values.chunk);
    if (chunk !== undefined && (chunk === 0 || chunk > CHUNK_BYTES_MAX))
      throw new UsageError(`Invalid chunk '${values.chunk}': 1 to 64M`);
    return await runDemo({
      image: values.image,
      format: values.format,
      guests: numberOption("number of guests", values.guests, 1, 16) ?? GUESTS_DEFAULT,
      packed: values.packed,
      workers: numberOption("number of workers", values.workers, 1, 16) ?? WORKERS_DEFAULT,
      chunk,
      seed: numberOption("seed", values.seed, 0, 2 ** 31) ?? SEED_DEFAULT,
      seconds: numberOption("number of seconds", values.seconds, 1, 86_400) ?? SECONDS_DEFAULT,
      json: values.json,
    });
  },
});
