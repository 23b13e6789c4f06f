/** `length`, `info`, `alloc` and `map`: what can be said of the image without reading its data. */
import { errnoText, SECTOR_SIZE } from "@spindle/base";
import { dictionaryLines } from "../dictionary-lines.ts";
import { CommandFailure, type ImageCommand } from "./io-command.ts";
import { ioSize } from "./io-number.ts";
import { ioSizeText } from "./io-report.ts";
import { failureCode } from "./request.ts";

export const length: ImageCommand = {
  name: "length",
  shortName: "l",
  synopsis: "",
  summary: "tell how long the disk is",
  needs: "image",
  run({ shell }, image) {
    shell.print(`${ioSizeText(image.length)}\n`);
  },
};

export const info: ImageCommand = {
  name: "info",
  shortName: "i",
  synopsis: "",
  summary: "tell the image's format and its features",
  needs: "image",
  run({ shell }, image) {
    const { driver } = image.image;
    const about = driver.information?.() ?? {};
    shell.print(`format name: ${driver.name}\n`);
    if (driver.information === undefined && image.image.children.file === null) {
      // A protocol that is no file's has no more to tell than its name, once more.
      shell.print(`format name: ${driver.name}\n`);
      throw new CommandFailure("");
    }
    shell.print(`cluster size: ${ioSizeText(about["cluster-size"] ?? 0)}\n`);
    shell.print(`vm state offset: ${ioSizeText(driver.machineStateOffset?.() ?? 0)}\n`);
    const specific = about["format-specific"];
    if (specific === undefined) return;
    shell.print("Format specific information:\n");
    for (const line of dictionaryLines(specific.data, "    ")) shell.print(`${line}\n`);
  },
};

export const alloc: ImageCommand = {
  name: "alloc",
  shortName: "a",
  synopsis: "offset [count]",
  summary: "tell how much of a range the image has, without its backing files",
  leastArguments: 1,
  mostArguments: 2,
  needs: "image",
  async run({ operands, shell }, image) {
    const [offsetText = "", countText = String(SECTOR_SIZE)] = operands;
    const offset = ioSize(offsetText);
    let count = ioSize(countText);
    let allocated = 0;
    try {
      for (let done = 0; done < count; ) {
        const run = await image.status(offset + done, count - done);
        if (run.allocated) allocated += run.length;
        done += run.length;
        if (run.length === 0) count = done;
      }
    } catch (error) {
      throw new CommandFailure(`is_allocated failed: ${errnoText(failureCode(error))}`);
    }
    shell.print(`${allocated}/${count} bytes allocated at offset ${ioSizeText(offset)}\n`);
  },
};

export const map: ImageCommand = {
  name: "map",
  synopsis: "",
  summary: "list what the image has, without its backing files",
  needs: "image",
  async run({ shell }, image) {
    const end = image.length;
    for (let offset = 0; offset < end; ) {
      const first = await status(offset, end - offset);
      let count = first.length;
      while (offset + count < end) {
        const next = await status(offset + count, end - offset - count);
        if (next.allocated !== first.allocated || next.length === 0) break;
        count += next.length;
      }
      const kind = first.allocated ? "    allocated" : "not allocated";
      const place = `${ioSizeText(offset)} (0x${offset.toString(16)})`;
      shell.print(`${ioSizeText(count)} (0x${count.toString(16)}) bytes ${kind} at offset ${place}\n`);
      offset += count;
    }

    async function status(offset: number, length: number) {
      try {
        return await image.status(offset, length);
      } catch (error) {
        const reason = errnoText(failureCode(error));
        throw new CommandFailure(`Failed to get allocation status: ${reason}`, "report");
      }
    }
  },
};
