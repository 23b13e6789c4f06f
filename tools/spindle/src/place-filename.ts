/**
 * Where a file name belongs among the options of an image's nodes: at the node that is a file of the host, below formats and
 * filters. `blkdebug:CONFIG:NAME` stands for such a filter with the rest of the name below it.
 */
import { BlockError } from "@spindle/base";

export type OptionPairs = readonly (readonly [key: string, value: string])[];

const BLKDEBUG = "blkdebug";

/** Whether a file name says more than where a file is. */
export function namesFilter(filename: string): boolean {
  return filename.startsWith(`${BLKDEBUG}:`);
}

/**
 * The options with a file name among them.
 * @param jsonOptions reads a name that is `json:{...}`
 * @throws {BlockError} EINVAL when the name is incomplete.
 */
export function placeFilename(
  filename: string,
  pairs: OptionPairs,
  jsonOptions: (name: string) => OptionPairs,
): OptionPairs {
  return [...place(filename, ""), ...pairs];

  function place(name: string, node: string): OptionPairs {
    const told = pairs.findLast(([key]) => key === `${node}driver`)?.[1];
    if (node !== "" && name.startsWith("json:"))
      return jsonOptions(name).map(([key, value]) => [`${node}${key}`, value] as const);
    // Nobody tells the driver of a node below: the name does.
    const driver = told ?? (node === "" ? undefined : namesFilter(name) ? BLKDEBUG : "file");
    const own: OptionPairs = driver === undefined ? [] : [[`${node}driver`, driver]];
    if (driver === "file") return [...own, [`${node}filename`, name.replace(/^file:/, "")]];
    return [...own, ...(driver === BLKDEBUG ? placeBelowBlkdebug(name, node) : place(name, `${node}file.`))];
  }

  function placeBelowBlkdebug(name: string, node: string): OptionPairs {
    if (!namesFilter(name)) return place(name, `${node}image.`);
    const [, config, image] = /^blkdebug:([^:]*):(.*)$/s.exec(name) ?? [];
    if (config === undefined || image === undefined)
      throw new BlockError("EINVAL", "blkdebug requires both config file and image path");
    return [...(config === "" ? [] : [[`${node}config`, config] as const]), ...place(image, `${node}image.`)];
  }
}
