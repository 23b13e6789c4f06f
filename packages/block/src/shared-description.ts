/**
 * A chain as another thread of this process can open it again, read-only: plain data, fit for structured clone. Copy
 * workers read through their own instance, so that decompression and waiting happen side by side. The owner's chain
 * must not change meanwhile, and its metadata must be on disk.
 */
import type { Co } from "@spindle/base";
import type { Environment } from "./environment.ts";
import { BlockNode, type Children } from "./node.ts";
import type { DriverRegistry, InFlightTickets } from "./registry.ts";

export interface SharedDescription {
  readonly driver: string;
  readonly nodeName: string;
  readonly filename: string | null;
  readonly options: Readonly<Record<string, unknown>>;
  readonly file: SharedDescription | null;
  readonly backing: SharedDescription | null;
  readonly data: SharedDescription | null;
}

/** The description of a node and all below it, or undefined when one of them can only be reached from this thread. */
export function describeShared(node: BlockNode): SharedDescription | undefined {
  const options = node.driver.shareableOptions?.();
  if (options === undefined) return undefined;
  const { file, backing, data } = node.children;
  const sharedData = data === undefined ? null : describeShared(data);
  const sharedFile = file === null ? null : describeShared(file);
  const sharedBacking = backing === null ? null : describeShared(backing);
  if (sharedFile === undefined || sharedBacking === undefined || sharedData === undefined) return undefined;
  const { name: nodeName, filename, driver } = node;
  return {
    driver: driver.name,
    nodeName,
    filename,
    options,
    file: sharedFile,
    backing: sharedBacking,
    data: sharedData,
  };
}

const NOTHING_IN_FLIGHT: InFlightTickets = { ticket: () => 0, oldestTicket: () => Number.POSITIVE_INFINITY };

/** Opens what {@link describeShared} described, on this thread. Close it with {@link closeShared}. */
export function* openShared(
  description: SharedDescription,
  registry: DriverRegistry,
  environment: Environment,
): Co<BlockNode> {
  const children: Children = { file: null, backing: null };
  const { nodeName: name, filename, options } = description;
  const definition = registry.get(description.driver);
  try {
    if (description.file !== null) children.file = yield* openShared(description.file, registry, environment);
    if (description.data !== null) children.data = yield* openShared(description.data, registry, environment);
    if (description.backing !== null) children.backing = yield* openShared(description.backing, registry, environment);
    const request = { nodeName: name, options, children, readOnly: true, environment, inFlight: NOTHING_IN_FLIGHT };
    const driver = yield* definition.open(request);
    const filter = definition.kind === "filter";
    return new BlockNode({ name, driver, children, readOnly: true, tracker: null, filter, filename });
  } catch (error) {
    yield* closeChildren(children);
    throw error;
  }
}

/** Closes a node that was opened by {@link openShared}, and all below it. */
export function* closeShared(node: BlockNode): Co<void> {
  yield* node.driver.close();
  yield* closeChildren(node.children);
}

function* closeChildren({ file, backing, data }: Children): Co<void> {
  if (data !== undefined) yield* closeShared(data);
  if (file !== null) yield* closeShared(file);
  if (backing !== null) yield* closeShared(backing);
}
