/** The images of one history: a chain of random layers, and the bytes that the disk shows at first. */
import { type Clock, type Co, SECTOR_SIZE, type SeededRandom, SyncRunner } from "@spindle/base";
import {
  type BlockNode,
  copyOnReadFilter,
  type DriverDefinition,
  DriverRegistry,
  Graph,
  IoVector,
} from "@spindle/block";
import { qcow2Format, rawFormat } from "@spindle/formats";
import { nodeCodecs } from "@spindle/host-node";
import { RangeLock, type Thread, ThreadTable } from "@spindle/shared-memory";
import { SparseBytes } from "@spindle/testkit";
import type { SimulatedStorage } from "./storage.ts";

export interface Layer {
  readonly filename: string;
  readonly format: "raw" | "qcow2";
  /** Bytes. */
  readonly length: number;
  /** The format's options, with qemu-img's keys. */
  readonly options: Readonly<Record<string, string>>;
}

export interface ImageChain {
  /** From the lowest layer to the top. */
  readonly layers: readonly Layer[];
  /** What the top's disk holds. */
  readonly content: Uint8Array;
}

/** The top's file. */
export const TOP_FILE = "top.qcow2";

/** No image needs more requests at once. */
export const TRACKER_SLOTS = 128;

export interface ChainShape {
  readonly layersMax: number;
  readonly clusterSizes: readonly number[];
  /** Sectors of the top's disk. */
  readonly sectors: readonly [number, number];
}

export interface GraphParts {
  readonly clock: Clock;
  readonly random: SeededRandom;
  readonly storage: SimulatedStorage;
  readonly qcow2?: DriverDefinition;
  readonly thread?: Thread;
  readonly createTracker?: (thread: Thread) => RangeLock;
}

/** A graph that opens images by the names of the storage's files. */
export function openGraph(parts: GraphParts): Graph {
  const thread = parts.thread ?? new ThreadTable(ThreadTable.create()).attach();
  const createTracker =
    parts.createTracker ?? ((on: Thread) => new RangeLock(RangeLock.create({ slots: TRACKER_SLOTS }), on));
  return new Graph({
    environment: { clock: parts.clock, random: parts.random, codecs: nodeCodecs },
    registry: new DriverRegistry([parts.storage, parts.qcow2 ?? qcow2Format, rawFormat, copyOnReadFilter]),
    backingPolicy: {
      *resolve(_image, backing): Co<string> {
        return backing.filename;
      },
    },
    createTracker: () => createTracker(thread),
  });
}

/** The options with which a graph opens an image. */
export function imageOptions(layer: Pick<Layer, "filename" | "format">): Record<string, unknown> {
  return { driver: layer.format, file: { driver: "file", filename: layer.filename } };
}

/** Fills each sector with one word that tells the writing request and the sector. */
export function stampedSectors(stamp: number, offset: number, length: number): Uint8Array {
  const words = new Uint32Array(length / 4);
  const wordsPerSector = SECTOR_SIZE / 4;
  for (let at = 0; at < words.length; at += wordsPerSector)
    words.fill(stamp * 512 + ((offset / SECTOR_SIZE + at / wordsPerSector) % 512), at, at + wordsPerSector);
  return new Uint8Array(words.buffer);
}

/** Makes a random chain in the storage. Stamps below 100 are its layers'. */
export function buildChain(random: SeededRandom, storage: SimulatedStorage, shape: ChainShape): ImageChain {
  const [fewest, most] = shape.sectors;
  const length = SECTOR_SIZE * (fewest + random.below(most - fewest + 1));
  const below = random.below(shape.layersMax + 1);
  const layers: Layer[] = [];
  for (let index = 0; index < below; index++) layers.push(lowerLayer(random, shape, index, length));
  layers.push({
    filename: TOP_FILE,
    format: "qcow2",
    length,
    options: qcow2Options(random, shape, ["0.10", "1.1", "1.1"]),
  });
  let content: Uint8Array = new Uint8Array(0);
  layers.forEach((layer, index) => {
    content = makeLayer({ random, storage, layer, backing: layers[index - 1], below: content, stamp: index + 1 });
  });
  return { layers, content };
}

function lowerLayer(random: SeededRandom, shape: ChainShape, index: number, topLength: number): Layer {
  const half = topLength / SECTOR_SIZE / 2;
  const length = random.chance(0.4) ? topLength : SECTOR_SIZE * Math.ceil(half + 1 + random.below(half * 2));
  const raw = index === 0 && random.chance(0.35);
  if (raw) return { filename: `layer${index}.raw`, format: "raw", length, options: {} };
  const options = qcow2Options(random, shape, ["0.10", "1.1"]);
  return { filename: `layer${index}.qcow2`, format: "qcow2", length, options };
}

/** Subclusters are of 512 bytes at least. */
function qcow2Options(random: SeededRandom, shape: ChainShape, compats: readonly string[]): Record<string, string> {
  const clusterSize = random.pick(shape.clusterSizes);
  const compat = random.pick(compats);
  const extended = clusterSize >= 16_384 && compat === "1.1" && random.chance(0.6);
  return { cluster_size: String(clusterSize), compat, ...(extended ? { extended_l2: "on" } : {}) };
}

interface LayerWork {
  readonly random: SeededRandom;
  readonly storage: SimulatedStorage;
  readonly layer: Layer;
  readonly backing: Layer | undefined;
  /** What the backing layer's disk holds. */
  readonly below: Uint8Array;
  readonly stamp: number;
}

/** Creates and fills one image. @returns what its disk holds. */
function makeLayer({ random, storage, layer, backing, below, stamp }: LayerWork): Uint8Array {
  const clock = { now: () => 0 };
  const runner = new SyncRunner(clock);
  const graph = openGraph({ clock, random, storage });
  storage.put(layer.filename, new SparseBytes());
  const content = new Uint8Array(layer.length);
  content.set(below.subarray(0, layer.length));
  runner.run(
    (function* (): Co<void> {
      const file = yield* graph.open({ driver: "file", filename: layer.filename, "node-name": "file" });
      const format = layer.format === "raw" ? rawFormat : qcow2Format;
      const named = backing === undefined ? {} : { backing: { filename: backing.filename, format: backing.format } };
      const options = { size: layer.length, options: layer.options, ...named };
      if (format.create !== undefined) yield* format.create(file, options, graph.environment);
      yield* graph.remove("file");
      const node = yield* graph.open(imageOptions(layer));
      yield* scribble(random, node, content, { density: backing === undefined ? 0.7 : 0.35, stamp });
      yield* graph.close();
    })(),
  );
  return content;
}

/** Writes, zeroes and compresses random parts of a layer. */
function* scribble(
  random: SeededRandom,
  node: BlockNode,
  content: Uint8Array,
  { density, stamp }: { readonly density: number; readonly stamp: number },
): Co<void> {
  const { length, trackingUnit } = node;
  const longest = Math.max(8, (2 * trackingUnit) / SECTOR_SIZE);
  for (let offset = 0; offset < length; ) {
    const part = Math.min(length - offset, SECTOR_SIZE * (1 + random.below(longest)));
    if (random.chance(density)) {
      const bytes = stampedSectors(stamp, offset, part);
      const wholeCluster = offset % trackingUnit === 0 && part >= trackingUnit;
      const kind = random.below(10);
      if (kind < 3) {
        yield* node.writeZeroes(offset, part, { mayUnmap: random.chance(0.5) });
        bytes.fill(0);
      } else if (node.driver.writeCompressed !== undefined && wholeCluster && kind < 5) {
        yield* node.writeCompressed(offset, IoVector.of(bytes.subarray(0, trackingUnit)));
        content.set(bytes.subarray(0, trackingUnit), offset);
        offset += trackingUnit;
        continue;
      } else yield* node.write(offset, IoVector.of(bytes));
      content.set(bytes, offset);
    }
    offset += part;
  }
}
