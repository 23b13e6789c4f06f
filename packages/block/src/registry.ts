/** The drivers that a graph can open, by their QMP names. Hosts register their own beside the formats. */
import { BlockError, type Co } from "@spindle/base";
import type { CheckRequest, CheckResult } from "./check.ts";
import type { BackingFile, BlockDriver } from "./driver.ts";
import type { Environment } from "./environment.ts";
import type { BlockNode, Children } from "./node.ts";
import type { OptionRecord } from "./node-options.ts";

export type OptionType = "string" | "number" | "boolean" | "object" | "string or object";

/** What tells a driver when a cluster that it freed may be reused; a node's range lock satisfies it. */
export interface InFlightTickets {
  /** The ticket of the newest request. */
  ticket(): number;
  /** The smallest ticket of a request in flight; Infinity when there is none. */
  oldestTicket(): number;
}

/** How the storage of a node is cached; handed down to all that is opened below it. */
export interface CacheOptions {
  /** Past the host's page cache. */
  readonly direct?: boolean | undefined;
  /** Flushes do nothing: whoever writes does not care for a loss of power. */
  readonly noFlush?: boolean | undefined;
}

export interface OpenRequest {
  readonly nodeName: string;
  /** The driver's own options, already checked against `DriverDefinition.options`. */
  readonly options: Readonly<Record<string, unknown>>;
  readonly children: Children;
  readonly readOnly: boolean;
  readonly environment: Environment;
  readonly inFlight: InFlightTickets;
  readonly cache?: CacheOptions;
  /**
   * Set when nobody has told the format: the one that an image with these first bytes would be taken for the next time.
   */
  readonly probe?: ((head: Uint8Array) => string) | undefined;
  /** Nobody will read or write the disk: an encrypted image needs no key. */
  readonly withoutData?: boolean;
  /** Called when an image is found to be corrupt while it is open for writing. It must not throw. */
  readonly corrupted?: (event: CorruptionEvent) => void;
}

/** An image was found corrupt. */
export interface CorruptionEvent {
  readonly message: string;
  /** Where in the image file the damage is, in bytes, when it is in one place. */
  readonly offset: number | undefined;
  readonly length: number | undefined;
  /** The image takes no more writes. */
  readonly fatal: boolean;
}

export interface CreateOptions {
  /** Bytes. */
  readonly size: number;
  readonly backing?: BackingFile;
  /** The format's own options, with qemu-img's keys and texts, such as `cluster_size: "64k"`. */
  readonly options: Readonly<Record<string, string>>;
  /** The file for the data, empty, where the option `data_file` names one. */
  readonly dataFile?: BlockNode;
}

/** What a new image is to hold. */
export interface MeasureOptions {
  /** Bytes of the disk. */
  readonly size: number;
  /** The format's own options, as for creating. */
  readonly options: Readonly<Record<string, string>>;
  /** Runs of data, ascending; null when all of it may be data. */
  readonly data: readonly { readonly offset: number; readonly length: number }[] | null;
  /** The persistent bitmaps of the source; absent when it is of a kind that can have none. */
  readonly bitmaps?: readonly { readonly name: string; readonly granularity: number }[];
}

/** Bytes of the image file: with the data that is told, and with all of the disk stored. */
export interface MeasuredSize {
  readonly required: number;
  readonly "fully-allocated": number;
  /** For persistent bitmaps; absent when source or target can have none. */
  readonly bitmaps?: number;
}

export interface DriverDefinition {
  readonly name: string;
  /** Protocols reach storage, formats give bytes a structure, filters pass requests through. */
  readonly kind: "protocol" | "format" | "filter";
  /** The driver's own options, beside those that every node takes. */
  readonly options: Readonly<Record<string, OptionType>>;
  /** The option that names the node below, where it is not `file`. */
  readonly fileOption?: string;
  /** Whether images of this format may have a backing file. */
  readonly supportsBacking?: boolean;
  /** Whether images of this format may hold compressed clusters that can be written. */
  readonly supportsCompression?: boolean;
  /** Whether the driver keeps structures in its file, so that nobody else may write there meanwhile. */
  readonly ownsFile?: boolean;
  open(request: OpenRequest): Co<BlockDriver>;
  /**
   * Whether the data of an image stands in a file of its own, and the name that the image has for it; null when it stands
   * in the image file. Left out by formats of which no image has such a file.
   */
  dataFile?(file: BlockNode): Co<{ readonly filename: string | null } | null>;
  /** How surely an image that begins with these bytes is of this format: 0 (not) to 100. */
  probe?(head: Uint8Array): number;
  /** How long the file of a new image becomes. @throws {BlockError} EINVAL when an option is wrong. */
  measure?(options: MeasureOptions): MeasuredSize;
  /** A new image does not read as zeros: what is encrypted reads as noise until it is written. */
  readonly newReadsAsAnything?: boolean;
  /** What has to be told to open an image that was created with these options, such as the secret of its key. */
  optionsToOpen?(options: CreateOptions["options"]): OptionRecord;
  /** The options of {@link create}, by name. */
  readonly createOptions?: readonly string[];
  /** The options of {@link BlockDriver.amend}, by name; absent where there is none. */
  readonly amendOptions?: readonly string[];
  /** Lays out an empty image in an empty file. */
  create?(file: BlockNode, options: CreateOptions, environment: Environment): Co<void>;
  /**
   * What opening an image does before a check and is no part of it: tries the key of an encrypted image, and warns.
   * @throws {BlockError} as opening an encrypted image does without its key.
   */
  prepareCheck?(file: BlockNode, options: OptionRecord, environment: Environment): Co<void>;
  /**
   * Looks for what is wrong in an image that nothing has open, and repairs it as far as it is asked to; then the file
   * must be writable. A crash during a repair makes nothing worse than it was.
   * @throws {BlockError} when it is no image of this format, and what reading and writing the file may throw.
   */
  check?(file: BlockNode, request: CheckRequest): Co<CheckResult>;
}

export class DriverRegistry {
  readonly #definitions: Map<string, DriverDefinition> = new Map();

  constructor(definitions: readonly DriverDefinition[]) {
    for (const definition of definitions) this.#definitions.set(definition.name, definition);
  }

  /** @throws {BlockError} EINVAL when there is no such driver; the text is QEMU's. */
  get(name: string): DriverDefinition {
    const definition = this.#definitions.get(name);
    if (definition === undefined) throw new BlockError("EINVAL", `Unknown driver '${name}'`);
    return definition;
  }

  has(name: string): boolean {
    return this.#definitions.has(name);
  }

  names(): string[] {
    return [...this.#definitions.keys()].sort();
  }

  /** The format that an image's first bytes look like; `raw` when they look like none. */
  probe(head: Uint8Array): string {
    let best = "raw";
    let bestScore = 0;
    for (const definition of this.#definitions.values()) {
      const score = definition.probe?.(head) ?? 0;
      if (score > bestScore) {
        best = definition.name;
        bestScore = score;
      }
    }
    return best;
  }
}
