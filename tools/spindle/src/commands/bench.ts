/** `spindle bench`: so many requests to an image, some of them side by side, and how long they took. */
import { parseSize } from "@spindle/base";
import { type Disk, openDisk } from "spindle";
import { cacheModes } from "../cache-mode.ts";
import { type Command, defineCommand, UsageError } from "../command.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { given, operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORCE_SHARE, FORMAT, IMAGE_OPTS } from "../image-options.ts";
import { print } from "../output.ts";
import { sizeArgument } from "../size-text.ts";

const AIO_MODES = ["threads", "native", "io_uring"];
const COUNT_MAX = 2 ** 31 - 1;

export const bench: Command = defineCommand({
  name: "bench",
  operands: "FILE",
  operandCount: { least: 1, most: 1, otherwise: "Expecting one image file name" },
  about:
    "Reads or writes an image, one request behind the other, many of them side by side, and tells how long it took.",
  options: {
    count: { short: "c", value: "N", help: "requests (default: 75000)" },
    depth: { short: "d", value: "N", help: "requests side by side (default: 64)" },
    format: FORMAT,
    "flush-interval": { value: "N", help: "flush after so many writes" },
    aio: { short: "i", value: "threads|native|io_uring", help: "accepted for qemu-img's sake" },
    native: { short: "n", help: "accepted for qemu-img's sake: the host's own asynchronous I/O" },
    "no-drain": { help: "go on with requests while a flush is under way" },
    offset: { short: "o", value: "OFFSET", help: "begin here (default: 0)" },
    pattern: { value: "BYTE", help: "write this byte (default: 0)" },
    quiet: { short: "q", help: "accepted for qemu-img's sake" },
    "buffer-size": { short: "s", value: "SIZE", help: "bytes of a request (default: 4096)" },
    step: { short: "S", value: "SIZE", help: "from the start of one request to the next (default: their size)" },
    cache: { short: "t", value: "CACHE", help: "the cache mode" },
    write: { short: "w", help: "write instead of reading" },
    "image-opts": IMAGE_OPTS,
    ...ACCESS,
    "force-share": FORCE_SHARE,
  },
  async run(values, [file = ""]) {
    const { format, write } = values;
    const count = whole(values.count ?? "75000", "Invalid request count specified", 0);
    const depth = whole(values.depth ?? "64", "Invalid queue depth specified", 1);
    const flushInterval = whole(values["flush-interval"] ?? "0", "Invalid flush interval specified", 0);
    const pattern = whole(values.pattern ?? "0", "Invalid pattern byte specified", 0);
    if (pattern > 0xff) throw new UsageError("Invalid pattern byte specified");
    if (values.aio !== undefined && !AIO_MODES.includes(values.aio))
      throw new UsageError(`Invalid aio option: ${values.aio}`);
    const offset = sizeArgument("offset", values.offset ?? "0");
    const bytes = sizeArgument("buffer size", values["buffer-size"] ?? "4096");
    const step = values.step === undefined ? bytes : sizeArgument("step size", values.step);
    const { cache } = cacheModes(values.cache);
    if (!write && flushInterval > 0) throw new UsageError("--flush-interval is only available in write tests");
    if (flushInterval > 0 && flushInterval < depth) throw new UsageError("Flush interval can't be smaller than depth");
    const { filename, ...image } = operandImage(file, { format, imageOpts: values["image-opts"], cache });
    await using disk = await openDisk(filename, {
      readOnly: !write,
      forceShare: values["force-share"],
      ...accessOf(values),
      ...given(image),
    });
    const work = { count, depth, flushInterval, pattern, offset, bytes, step, write, drain: !values["no-drain"] };
    print(describe(work));
    const begin = performance.now();
    await runBench(disk, work);
    print(`Run completed in ${((performance.now() - begin) / 1000).toFixed(3)} seconds.\n`);
    return EXIT_OK;
  },
});

interface Work {
  readonly count: number;
  readonly depth: number;
  readonly flushInterval: number;
  readonly pattern: number;
  readonly offset: number;
  readonly bytes: number;
  readonly step: number;
  readonly write: boolean;
  /** A flush waits for the requests before it, and those behind it wait for the flush. */
  readonly drain: boolean;
}

function describe({ count, depth, flushInterval, offset, bytes, step, write }: Work): string {
  const what = `${count} ${write ? "write" : "read"} requests, ${bytes} bytes each, ${depth} in parallel`;
  const flushes = flushInterval > 0 ? `Sending flush every ${flushInterval} requests\n` : "";
  return `Sending ${what} (starting at offset ${offset}, step size ${step})\n${flushes}`;
}

/** Requests that would reach beyond the end begin at the start again. */
async function runBench(disk: Disk, work: Work): Promise<void> {
  const { depth, flushInterval, count } = work;
  const group = flushInterval > 0 && work.drain ? flushInterval : count;
  const cursor = new Cursor(disk.length, work);
  let flush: Promise<void> = Promise.resolve();
  for (let done = 0; done < count; done += group) {
    let left = Math.min(group, count - done);
    const lane = async (): Promise<void> => {
      const buffer = new Uint8Array(work.bytes).fill(work.pattern);
      while (left > 0) {
        left -= 1;
        const at = cursor.next();
        await (work.write ? disk.write(at, buffer) : disk.read(at, buffer));
        if (!work.drain && flushInterval > 0 && cursor.taken % flushInterval === 0) flush = disk.flush();
      }
    };
    await Promise.all(Array.from({ length: Math.min(depth, left) }, lane));
    if (work.drain && flushInterval > 0) await disk.flush();
  }
  await flush;
}

class Cursor {
  readonly #length: number;
  readonly #work: Work;
  #offset: number;
  /** Requests so far. */
  taken = 0;

  constructor(length: number, work: Work) {
    this.#length = length;
    this.#work = work;
    this.#offset = work.offset;
  }

  next(): number {
    const { bytes, step } = this.#work;
    if (this.#length <= bytes) this.#offset = 0;
    else this.#offset %= this.#length - bytes + 1;
    const at = this.#offset;
    this.#offset += step;
    this.taken += 1;
    return at;
  }
}

function whole(text: string, otherwise: string, least: number): number {
  let value: number;
  try {
    value = parseSize(text);
  } catch {
    throw new UsageError(otherwise);
  }
  if (value < least || value > COUNT_MAX) throw new UsageError(otherwise);
  return value;
}
