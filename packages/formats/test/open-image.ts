/** Opens images over any file driver on one blocking thread, for the tests of this package. */
import { type Clock, type Co, SeededRandom, SyncRunner } from "@spindle/base";
import {
  type BlockDriver,
  BlockNode,
  type Children,
  type CorruptionEvent,
  type Environment,
  IoVector,
  SecretStore,
} from "@spindle/block";
import { nodeCodecs, nodeCryptography } from "@spindle/host-node";
import { RangeLock, type Thread, ThreadTable } from "@spindle/shared-memory";
import type { SparseBytes } from "@spindle/testkit";
import { qcow2Format } from "../src/index.ts";

const clock: Clock = { now: () => performance.now() };
/** The secret `sec0` of every encrypted image. */
export const PASSWORD = "correct horse";
const secrets = new SecretStore();
secrets.add("sec0", new TextEncoder().encode(PASSWORD));
secrets.add("wrong", new TextEncoder().encode("incorrect horse"));
export const environment: Environment = {
  clock,
  random: new SeededRandom(1),
  codecs: nodeCodecs,
  cryptography: nodeCryptography,
  secrets,
};
export const thread: Thread = new ThreadTable(ThreadTable.create()).attach();
const runner: SyncRunner = new SyncRunner(clock, thread);

export function run<T>(co: Co<T>): T {
  return runner.run(co);
}

export function fileNode(driver: BlockDriver, readOnly = false): BlockNode {
  const children: Children = { file: null, backing: null };
  return new BlockNode({ name: "file", driver, children, readOnly, tracker: null, filename: "image" });
}

export interface ImageOptions {
  readonly backing?: BlockNode;
  /** Where the image's data stands, when not in its file. */
  readonly data?: BlockNode;
  readonly readOnly?: boolean;
  /** The driver's own. */
  readonly options?: Readonly<Record<string, unknown>>;
  readonly withoutData?: boolean;
  readonly corrupted?: (event: CorruptionEvent) => void;
}

/** Opens a qcow2 image whose file is `driver`. */
export function openQcow2(driver: BlockDriver, options: ImageOptions = {}): BlockNode {
  const readOnly = options.readOnly === true;
  const apart = options.data === undefined ? {} : { data: options.data };
  const children: Children = { file: fileNode(driver, readOnly), backing: options.backing ?? null, ...apart };
  const tracker = readOnly ? null : new RangeLock(RangeLock.create({ slots: 256 }), thread);
  const inFlight = tracker ?? { ticket: () => 0, oldestTicket: () => Number.POSITIVE_INFINITY };
  const told = options.corrupted === undefined ? {} : { corrupted: options.corrupted };
  const { options: own = {}, withoutData = false } = options;
  const request = { nodeName: "image", options: own, withoutData, children, readOnly, environment, inFlight, ...told };
  const opened = run(qcow2Format.open(request));
  return new BlockNode({ name: "image", driver: opened, children, readOnly, tracker });
}

export function createQcow2(
  driver: BlockDriver,
  size: number,
  options: Record<string, string> = {},
  backing?: { filename: string; format: string | null },
  dataFile?: BlockNode,
): void {
  const named = backing === undefined ? {} : { backing };
  const request = { size, options, ...named, ...(dataFile === undefined ? {} : { dataFile }) };
  run(qcow2Format.create!(fileNode(driver), request, environment));
}

export function readBytes(node: BlockNode, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length).fill(0xee);
  run(node.read(offset, IoVector.of(bytes)));
  return bytes;
}

export function writeBytes(node: BlockNode, offset: number, bytes: Uint8Array): void {
  run(node.write(offset, IoVector.of(bytes)));
}

/** All bytes of a sparse file in memory. */
export function contentOf(content: SparseBytes): Uint8Array {
  const bytes = new Uint8Array(content.length);
  content.read(0, bytes);
  return bytes;
}
