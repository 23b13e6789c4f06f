/** Changes what an image was created with: what `qemu-img amend` does. */
import { assert, BlockError, type Co } from "@spindle/base";
import { type DriverDefinition, skipFilters } from "@spindle/block";
import { formatNamed } from "./driver-registry.ts";
import { type ImageName, openChain } from "./open-image.ts";
import { type ImageAccess, Session } from "./session.ts";

export interface AmendImageOptions extends ImageAccess {
  /** The format's own options, with qemu-img's keys and texts, such as `compat: "1.1"`. */
  readonly options: Readonly<Record<string, string>>;
  /** Also what may lose data: keys of an encrypted image that are the last ones, or are overwritten. Default false. */
  readonly force?: boolean;
  /** Called with how much is done, 0 to 1; it may become less when there is more to do than was known. */
  readonly progress?: (done: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * Changes options of an image; nobody else uses it. A crash leaves it as it was before or behind one of the steps.
 * @throws {BlockError} ENOTSUP when the format has no such options, EINVAL and ENOTSUP for what cannot be, and what
 *   opening throws.
 */
export async function amendImage(name: ImageName, request: AmendImageOptions): Promise<void> {
  request.signal?.throwIfAborted();
  await using session = new Session(request);
  await session.run(amendIn(session, name, request));
}

/** The options that images of a format can change. @throws {BlockError} EINVAL for no format, ENOTSUP when there are none. */
export function amendOptions(format: string): readonly string[] {
  return optionsOf(format, formatNamed(format));
}

function* amendIn(
  { graph }: Session,
  name: ImageName,
  { options, progress, force = false }: AmendImageOptions,
): Co<void> {
  const node = skipFilters(yield* openChain(graph, name, { readOnly: false }));
  const { driver } = node;
  const definition = graph.registry.get(driver.name);
  const known = optionsOf(driver.name, definition);
  for (const key of Object.keys(options)) if (!known.includes(key)) throw unknownOption(definition, key);
  assert(driver.amend !== undefined, "a format with options to amend can amend them");
  const change = driver.amend(options, progress ?? (() => {}), force);
  yield* node.exclusively(() => change);
}

function optionsOf(format: string, definition: DriverDefinition | undefined): readonly string[] {
  if (definition?.amendOptions !== undefined) return definition.amendOptions;
  throw new BlockError("ENOTSUP", `Format driver '${format}' does not support option amendment`);
}

function unknownOption({ createOptions = [] }: DriverDefinition, key: string): BlockError {
  const isForCreation = createOptions.includes(key) && !FILE_OPTIONS.includes(key);
  const hint = isForCreation ? { hint: "This option is only supported for image creation" } : {};
  return new BlockError("EINVAL", `Invalid parameter '${key}'`, hint);
}

/** Options of creation that are the file's and not the format's. */
const FILE_OPTIONS: readonly string[] = ["nocow", "extent_size_hint"];
