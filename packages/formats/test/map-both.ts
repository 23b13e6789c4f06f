/** Where the content of the same image stands, as told here and by `qemu-img map --output=json`. */
import { alignDown, isBlockError } from "@spindle/base";
import type { BlockNode, Extent } from "@spindle/block";
import { MemoryDriver } from "@spindle/testkit";
import { qcow2Format } from "../src/index.ts";
import { fileNode, openQcow2, run } from "./open-image.ts";
import type { QemuImages } from "./qemu-images.ts";

/** One run of a disk, in qemu-img's words. */
export interface MapLine {
  readonly start: number;
  readonly length: number;
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  readonly offset?: number;
}

/** The runs of an image without a backing file, or why there are none. */
export interface MapVerdict {
  readonly map: readonly MapLine[] | undefined;
  readonly said: string;
}

/** @param data the content of the data file, for images that name one. @throws what is not a BlockError. */
export function mapHere(bytes: Uint8Array, data: Uint8Array): MapVerdict {
  try {
    const named = run(qcow2Format.dataFile!(fileNode(new MemoryDriver(bytes.slice()), true)));
    if (named?.filename === null) return { map: undefined, said: "no data file is named" };
    const apart = named === null ? {} : { data: fileNode(new MemoryDriver(data.slice()), true) };
    return { map: mapOf(openQcow2(new MemoryDriver(bytes.slice()), { readOnly: true, ...apart })), said: "" };
  } catch (error) {
    if (!isBlockError(error)) throw error;
    return { map: undefined, said: error.message };
  }
}

function mapOf(node: BlockNode): MapLine[] {
  const lines: MapLine[] = [];
  // QEMU leaves out what is behind the last whole sector.
  const end = alignDown(node.length, 512);
  for (let at = 0; at < end; ) {
    const line = lineOf(at, run(node.blockStatus(at, end - at)));
    const last = lines.at(-1);
    if (last !== undefined && isContinued(last, line))
      lines[lines.length - 1] = { ...last, length: last.length + line.length };
    else lines.push(line);
    at += line.length;
  }
  return lines;
}

function lineOf(start: number, { length, allocated, zero, data, hostOffset }: Extent): MapLine {
  const place = hostOffset === undefined ? {} : { offset: hostOffset };
  // What no layer has reads as zeros.
  return { start, length, present: allocated, zero: zero || !allocated, data: data && allocated, ...place };
}

function isContinued(last: MapLine, next: MapLine): boolean {
  const sameKind = last.present === next.present && last.zero === next.zero && last.data === next.data;
  const follows = last.offset === undefined ? undefined : last.offset + last.length;
  return sameKind && next.offset === follows;
}

export function mapWithQemu(images: QemuImages, bytes: Uint8Array): MapVerdict {
  const name = "checked.qcow2";
  images.put(name, bytes);
  const { code, stdout, stderr } = images.tryImg("map", "--output=json", "-f", "qcow2", name);
  if (code !== 0) return { map: undefined, said: stderr };
  const lines = JSON.parse(stdout) as (MapLine & { readonly depth: number })[];
  return { map: lines.filter(({ length }) => length > 0).map(({ depth: _depth, ...line }) => line), said: stderr };
}
