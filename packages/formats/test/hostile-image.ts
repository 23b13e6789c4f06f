/** What a test does with an image that means harm: opens it, reads it, writes it, and notes what was refused. */
import { isBlockError, SeededRandom } from "@spindle/base";
import { type BlockNode, IoVector } from "@spindle/block";
import { MemoryDriver, randomBytes, SparseBytes } from "@spindle/testkit";
import { openQcow2, readBytes, run, writeBytes } from "./open-image.ts";

/** No more of a disk is looked at than this, however long it claims to be. */
const LOOKED_AT = 4 * 1024 * 1024;
const PIECE = 128 * 1024;
const CPU_MS_MAX = 1000;

/** What became of one image. */
export interface Verdict {
  /** It could be opened. */
  readonly opened: boolean;
  /** What was thrown, in order. */
  readonly errors: readonly { readonly code: string; readonly message: string; readonly corrupt: boolean }[];
  /** The disk's beginning, when all of it could be read. */
  readonly content: Uint8Array | undefined;
}

class Attempt {
  readonly errors: { code: string; message: string; corrupt: boolean }[] = [];

  /** @throws what is not a BlockError. */
  try<T>(request: () => T): T | undefined {
    try {
      return request();
    } catch (error) {
      if (!isBlockError(error)) throw error;
      this.errors.push({ code: error.code, message: error.message, corrupt: error.context.corrupt === true });
      return undefined;
    }
  }
}

/** Opens an image and reads it. @throws {Error} when it takes too long, changes the file, or throws no BlockError. */
export function readHostile(content: SparseBytes): Verdict {
  return timed(() => {
    const attempt = new Attempt();
    const driver = new MemoryDriver(content.clone());
    refuseChanges(driver);
    const node = attempt.try(() => openQcow2(driver, { readOnly: true }));
    if (node === undefined) return { opened: false, errors: attempt.errors, content: undefined };
    const disk = readAll(node, attempt);
    walkStatus(node, attempt);
    attempt.try(() => run(node.driver.close()));
    node.driver.information?.();
    return { opened: true, errors: attempt.errors, content: disk };
  });
}

/** Opens an image for writing and uses it; what it became is in `content`. */
export function writeHostile(content: SparseBytes): Verdict {
  return timed(() => {
    const attempt = new Attempt();
    const node = attempt.try(() => openQcow2(new MemoryDriver(content)));
    if (node === undefined) return { opened: false, errors: attempt.errors, content: undefined };
    const random = new SeededRandom(1);
    const end = Math.min(node.length, LOOKED_AT);
    for (let at = 0; at < end; at += PIECE) {
      const length = Math.min(PIECE / 2, end - at);
      attempt.try(() => writeBytes(node, at, randomBytes(random, length)));
    }
    attempt.try(() => run(node.writeZeroes(0, Math.floor(end / 3), { mayUnmap: true })));
    attempt.try(() => run(node.discard(Math.floor(end / 2), Math.floor(end / 4))));
    attempt.try(() => run(node.flush()));
    const cluster = new Uint8Array(Math.min(node.driver.clusterSize, end));
    if (end > 0) attempt.try(() => run(node.writeCompressed(0, IoVector.of(cluster))));
    const disk = readAll(node, attempt);
    attempt.try(() => run(node.driver.reclaimLeaks!()));
    attempt.try(() => run(node.driver.close()));
    return { opened: true, errors: attempt.errors, content: disk };
  });
}

function readAll(node: BlockNode, attempt: Attempt): Uint8Array | undefined {
  const end = Math.min(node.length, LOOKED_AT);
  const disk = new Uint8Array(end);
  let isWhole = true;
  for (let at = 0; at < end; at += PIECE) {
    const bytes = attempt.try(() => readBytes(node, at, Math.min(PIECE, end - at)));
    if (bytes === undefined) isWhole = false;
    else disk.set(bytes, at);
  }
  return isWhole ? disk : undefined;
}

function walkStatus(node: BlockNode, attempt: Attempt): void {
  for (let at = 0, steps = 0; at < node.length && steps < 200; steps++) {
    const extent = attempt.try(() => run(node.blockStatus(at, node.length - at)));
    at += extent?.length ?? node.driver.clusterSize;
  }
}

function refuseChanges(driver: MemoryDriver): void {
  const refuse = (): never => {
    throw new Error("an image that is open read-only was changed");
  };
  driver.write = refuse;
  driver.writeZeroes = refuse;
  driver.discard = refuse;
  driver.truncate = refuse;
}

/** Time of the processor, because the machine may be busy with something else. */
function timed<T>(body: () => T): T {
  const before = process.cpuUsage();
  const result = body();
  const { user, system } = process.cpuUsage(before);
  const cpuMs = (user + system) / 1000;
  if (cpuMs > CPU_MS_MAX) throw new Error(`it took ${Math.round(cpuMs)} ms`);
  return result;
}

/** A copy of an image with some fields changed. Values of 64 bits are bigints. */
export function patched(content: SparseBytes, fields: readonly (readonly [offset: number, value: number | bigint])[]) {
  const copy = content.clone();
  for (const [offset, value] of fields) {
    const view = new DataView(new ArrayBuffer(typeof value === "bigint" ? 8 : 4));
    if (typeof value === "bigint") view.setBigUint64(0, BigInt.asUintN(64, value));
    else view.setUint32(0, value);
    copy.write(offset, new Uint8Array(view.buffer));
  }
  return copy;
}

export function sparse(bytes: Uint8Array): SparseBytes {
  return SparseBytes.of(bytes);
}
