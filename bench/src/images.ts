/** The images that streams begin with. They are made by Spindle itself, so that no bench needs another program. */
import type { OptionRecord } from "@spindle/block";
import { createImage } from "spindle";
import { streamInProcess } from "./stream-process.ts";

/**
 * Makes an empty qcow2 image. It names no backing file: whoever opens it says what stands below.
 * @param length bytes
 */
export async function createOverlay(path: string, length: number): Promise<void> {
  await createImage(path, { format: "qcow2", size: length });
}

/** Makes a qcow2 image that holds what a raw one does, its data in order. */
export async function createQcow2From(raw: string, qcow2: string, length: number): Promise<void> {
  await createOverlay(qcow2, length);
  await streamInProcess({ image: qcow2, backing: imageFile("raw", raw), workers: 0 });
}

/** The image in a file, as `blockdev-add` takes it. */
export function imageFile(format: string, filename: string): OptionRecord {
  return { driver: format, file: { driver: "file", filename } };
}
