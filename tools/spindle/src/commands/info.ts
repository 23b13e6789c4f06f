/** `spindle info`: what an image says of itself. It opens nothing that the image names, unless it is asked for the chain. */
import { formatSize } from "@spindle/base";
import type { OptionRecord } from "@spindle/block";
import { writeJson } from "@spindle/monitor";
import { type ImageInfo, imageChainInfo, imageInfo } from "spindle";
import { type Command, defineCommand } from "../command.ts";
import { dictionaryLines } from "../dictionary-lines.ts";
import { EXIT_OK } from "../exit-codes.ts";
import { operandImage } from "../image-name.ts";
import { ACCESS, accessOf, FORCE_SHARE, FORMAT, IMAGE_OPTS, OUTPUT } from "../image-options.ts";
import { print } from "../output.ts";
import { prettyJson } from "../pretty-json.ts";
import { snapshotLines } from "../snapshot-list.ts";

export const info: Command = defineCommand({
  name: "info",
  operands: "FILE",
  operandCount: { least: 1, most: 1, otherwise: "Expecting one image file name" },
  about: "Tells the format, sizes and features of an image, and the backing file that it names.",
  options: {
    format: FORMAT,
    output: OUTPUT,
    "image-opts": IMAGE_OPTS,
    "backing-chain": { help: "tell of the images below it, too" },
    ...ACCESS,
    "force-share": FORCE_SHARE,
  },
  async run(values, [operand = ""]) {
    const { format, output } = values;
    const chain = values["backing-chain"];
    const { filename, ...image } = operandImage(operand, { format, imageOpts: values["image-opts"] });
    const options = { ...image, ...accessOf(values), forceShare: values["force-share"] };
    const infos = chain ? await imageChainInfo(filename, options) : [await imageInfo(filename, options)];
    const told = infos.map((one, index) =>
      index === 0 ? { ...one, filename: toldName(filename, image.options) } : one,
    );
    if (output === "json") print(`${prettyJson(chain ? told : told[0])}\n`);
    else print(told.map(humanInfo).join("\n"));
    return EXIT_OK;
  },
});

/** An image that cannot be opened by its name alone is told by what opens it: a key is named there. */
function toldName(filename: string, options: OptionRecord = {}): string {
  const { driver, file } = options;
  const encrypt = options["encrypt"] as OptionRecord | undefined;
  const keys = Object.entries({ "encrypt.key-secret": encrypt?.["key-secret"], "key-secret": options["key-secret"] });
  const given = keys.filter(([, secret]) => secret !== undefined);
  if (given.length === 0) return filename;
  return `json:${writeJson({ ...Object.fromEntries(given), driver, file })}`;
}

function humanInfo(image: ImageInfo): string {
  const lines = [`image: ${image.filename}`, `file format: ${image.format}`];
  lines.push(`virtual size: ${formatSize(image["virtual-size"])} (${image["virtual-size"]} bytes)`);
  if (image["actual-size"] !== undefined) lines.push(`disk size: ${formatSize(image["actual-size"])}`);
  if (image.encrypted === true) lines.push("encrypted: yes");
  if (image["cluster-size"] !== undefined) lines.push(`cluster_size: ${image["cluster-size"]}`);
  if (image["dirty-flag"] === true) lines.push("cleanly shut down: no");
  lines.push(...backingLines(image));
  lines.push(...snapshotLines(image.snapshots ?? []));
  const specific = image["format-specific"];
  if (specific !== undefined) lines.push("Format specific information:", ...dictionaryLines(specific.data, "    "));
  return `${lines.join("\n")}\n`;
}

function backingLines(image: ImageInfo): string[] {
  const name = image["backing-filename"];
  if (name === undefined) return [];
  const full = image["full-backing-filename"];
  const format = image["backing-filename-format"];
  return [
    `backing file: ${name}${full === undefined || full === name ? "" : ` (actual path: ${full})`}`,
    ...(format === undefined ? [] : [`backing file format: ${format}`]),
  ];
}
