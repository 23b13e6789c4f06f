/** A graph in the simulator with a chain of tiny images, and the bytes that every layer shows: what streams are tested on. */
import { type Co, SeededRandom } from "@spindle/base";
import {
  type BlockNode,
  copyOnReadFilter,
  DriverRegistry,
  delayFilter,
  faultFilter,
  Graph,
  IoVector,
  type OptionRecord,
} from "@spindle/block";
import { RangeLock, ThreadTable } from "@spindle/shared-memory";
import { MemoryFiles, SimulatedRunner, type SimulationOptions } from "@spindle/testkit";
import {
  type CreateCopier,
  type JobEvent,
  JobRegistry,
  LocalCopier,
  type StreamContext,
  type StreamOptions,
  startStream,
} from "../src/index.ts";
import { type TinyImage, tinyFormat } from "./tiny-image.ts";

export interface LayerOptions {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly clusterSize?: number;
  /** Filters on top of the layer's node, the lowest first. */
  readonly filters?: readonly OptionRecord[];
}

export class StreamWorld {
  readonly runner: SimulatedRunner;
  readonly random: SeededRandom;
  readonly graph: Graph;
  readonly jobs: JobRegistry;
  readonly events: string[] = [];
  readonly rawEvents: JobEvent[] = [];
  readonly #files = new MemoryFiles();
  #createCopier: CreateCopier;

  constructor(seed: number, simulation: SimulationOptions = {}) {
    this.runner = new SimulatedRunner(seed, simulation);
    this.random = new SeededRandom(seed ^ 0x2545f491);
    const thread = new ThreadTable(ThreadTable.create()).attach();
    this.graph = new Graph({
      environment: this.runner.environment(),
      registry: new DriverRegistry([this.#files, tinyFormat, delayFilter, faultFilter, copyOnReadFilter]),
      backingPolicy: {
        *resolve(_image, backing) {
          return backing.filename;
        },
      },
      createTracker: () => new RangeLock(RangeLock.create({ slots: 128 }), thread),
    });
    this.jobs = new JobRegistry({ clock: this.runner.clock, runner: this.runner });
    this.jobs.onEvent((event) => {
      this.rawEvents.push(event);
      this.events.push("status" in event.data ? event.data.status : event.event);
    });
    this.#createCopier = function* (options) {
      return new LocalCopier(options);
    };
  }

  get context(): StreamContext {
    return { graph: this.graph, jobs: this.jobs, createCopier: (options) => this.#createCopier(options) };
  }

  set createCopier(createCopier: CreateCopier) {
    this.#createCopier = createCopier;
  }

  /** Opens layers, the lowest first; the last is the top. @returns the nodes to use, top last. */
  open(layers: readonly LayerOptions[]): BlockNode[] {
    return layers.reduce<BlockNode[]>((nodes, layer) => {
      nodes.push(this.#openLayer(layer, nodes.at(-1)));
      return nodes;
    }, []);
  }

  #openLayer(layer: LayerOptions, below: BlockNode | undefined): BlockNode {
    const { name, size, clusterSize = 4096, filters = [] } = layer;
    this.#files.put(`${name}.img`);
    let node = this.runner.run(
      this.graph.open({
        driver: "tiny",
        "node-name": name,
        size,
        "cluster-size": clusterSize,
        file: { driver: "memory", filename: `${name}.img` },
        backing: below === undefined ? null : below.name,
        ...(below === undefined ? {} : { "backing-name": below.filename ?? below.name }),
      }),
    );
    filters.forEach((filter, index) => {
      const options = { ...filter, "node-name": `${name}-filter${index}`, file: node.name };
      node = this.runner.run(this.graph.open(options));
    });
    return node;
  }

  image(name: string): TinyImage {
    return this.graph.lookup(name).driver as TinyImage;
  }

  write(node: BlockNode, offset: number, bytes: Uint8Array): void {
    this.runner.run(node.write(offset, IoVector.of(bytes)));
  }

  contents(node: BlockNode): Uint8Array {
    const bytes = new Uint8Array(node.length);
    this.runner.run(node.read(0, IoVector.of(bytes)));
    return bytes;
  }

  /** Fills random parts of a layer with a stamp, and others with zeros. */
  scribble(node: BlockNode, stamp: number, density: number): void {
    const unit = 1024;
    for (let offset = 0; offset < node.length; ) {
      const length = Math.min(node.length - offset, unit * (1 + this.random.below(12)));
      if (this.random.chance(density)) {
        if (this.random.chance(0.2)) this.runner.run(node.writeZeroes(offset, length));
        else this.write(node, offset, stamped(length, stamp, offset));
      }
      offset += length;
    }
  }

  /** Starts a stream and lets everything run until it is over. */
  stream(options: Omit<StreamOptions, "jobId">): void {
    this.runner.run(this.#streamed(options));
  }

  *#streamed(options: Omit<StreamOptions, "jobId">): Co<void> {
    const job = yield* startStream(this.context, { jobId: "j", ...options });
    yield* job.ended();
  }
}

/** Bytes that tell where they were written and by whom. None of them is zero. */
export function stamped(length: number, stamp: number, offset: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let index = 0; index < length; index++) {
    const sector = Math.floor((offset + index) / 512);
    bytes[index] = 1 + ((stamp * 37 + sector * 11 + (index & 1)) % 255);
  }
  return bytes;
}
