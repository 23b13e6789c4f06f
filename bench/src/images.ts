/** The images that streams begin with. They are made by Spindle itself, so that no bench needs another program. */
import { createImage } from "spindle";
import { streamInProcess } from "./stream-process.ts";

/**
 * Makes an empty qcow2 image.
 * @param length bytes
 */
export async function createOverlay(
  path: string,
  length: number,
  backing?: { readonly file: string; readonly format: string },
): Promise<void> {
  const below = backing === undefined ? {} : { backing: { filename: backing.file, format: backing.format } };
  await createImage(path, { format: "qcow2", size: length, ...below });
}

/** Makes a qcow2 image that holds what a raw one does, its data in order. */
export async function createQcow2From(raw: string, qcow2: string, length: number): Promise<void> {
  await createOverlay(qcow2, length, { file: raw, format: "raw" });
  await streamInProcess({ image: qcow2, workers: 0 });
}
