/** The same image checked here and by qemu-img, in the same words. */
import { isBlockError } from "@spindle/base";
import type { CheckResult, Repair } from "@spindle/block";
import { MemoryDriver } from "@spindle/testkit";
import { qcow2Format } from "../src/index.ts";
import { contentOf, fileNode, run } from "./open-image.ts";
import type { QemuImages } from "./qemu-images.ts";

/** A check's numbers without those that are 0; undefined when it could not be done. */
export type Numbers = Readonly<Record<string, number>> | undefined;

export interface Verdict {
  readonly numbers: Numbers;
  /** What was told, line by line. */
  readonly lines: readonly string[];
  /** The image afterwards. */
  readonly bytes: Uint8Array;
}

const KEYS: Readonly<Record<keyof CheckResult, string>> = {
  checkErrors: "check-errors",
  corruptions: "corruptions",
  leaks: "leaks",
  corruptionsFixed: "corruptions-fixed",
  leaksFixed: "leaks-fixed",
  totalClusters: "total-clusters",
  allocatedClusters: "allocated-clusters",
  fragmentedClusters: "fragmented-clusters",
  compressedClusters: "compressed-clusters",
  imageEndOffset: "image-end-offset",
};

/** @throws what is not a BlockError. */
export function checkHere(bytes: Uint8Array, repair: Repair = "none"): Verdict {
  const driver = new MemoryDriver(bytes.slice());
  const lines: string[] = [];
  let numbers: Numbers;
  try {
    const report = (line: string): void => void lines.push(line);
    numbers = named(run(qcow2Format.check!(fileNode(driver, repair === "none"), { repair, report })));
  } catch (error) {
    if (!isBlockError(error)) throw error;
    lines.push(error.message);
  }
  return { numbers, lines, bytes: contentOf(driver.content) };
}

function named(result: CheckResult): Numbers {
  const entries = Object.entries(KEYS).map(([key, name]) => [name, result[key as keyof CheckResult]] as const);
  return Object.fromEntries(entries.filter(([, number]) => number !== 0));
}

/** @param options such as `-r leaks`. After a repair the numbers are those of the second check. */
export function checkWithQemu(images: QemuImages, bytes: Uint8Array, ...options: string[]): Verdict {
  const name = "checked.qcow2";
  images.put(name, bytes);
  const { stdout, stderr } = images.tryImg("check", "--output=json", "-f", "qcow2", ...options, name);
  const told = stdout.startsWith("{") ? (JSON.parse(stdout) as Record<string, unknown>) : undefined;
  const entries = Object.entries(told ?? {}).filter(([, value]) => typeof value === "number" && value !== 0);
  const numbers = told === undefined ? undefined : (Object.fromEntries(entries) as Numbers);
  return { numbers, lines: stderr.split("\n").filter((line) => line !== ""), bytes: images.bytes(name) };
}
