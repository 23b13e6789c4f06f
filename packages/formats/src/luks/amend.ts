/**
 * Adds and erases passwords of a volume: what `amend` does with QEMU's options `state`, `keyslot`, `new-secret`, `old-secret`
 * and `iter-time`. The master key stays, and with it the data. A slot is active only while its salt and stripes are
 * durable, so that a crash leaves the passwords of before or of after.
 */
import { BlockError, type Co, parseSize } from "@spindle/base";
import { type Environment, IoVector } from "@spindle/block";
import { iterationsIn } from "./create.ts";
import { ITER_TIME_MS } from "./create-options.ts";
import { formatKeySlot, type KeySlot, keyMaterialBytes, keySlotOffset, type LuksHeader, SALT_BYTES } from "./header.ts";
import { openSlots, sealKey, unlock } from "./key-slots.ts";
import { randomBytes } from "./random-bytes.ts";
import { passwordOf } from "./secret.ts";
import { type VolumePlace, volumeReader } from "./volume.ts";

export const LUKS_AMEND_OPTIONS: readonly string[] = ["iter-time", "keyslot", "new-secret", "old-secret", "state"];

export interface AmendedVolume extends VolumePlace {
  readonly header: LuksHeader;
  readonly environment: Environment;
  /** The secret with which the image was opened, and the option that named it. */
  readonly keySecret: string | undefined;
  readonly keyOption: string;
}

/** What is to become of the slots. */
interface Wanted {
  readonly active: boolean;
  readonly slot: number | undefined;
  readonly newSecret: string | undefined;
  readonly oldSecret: string | undefined;
  readonly iterTimeMs: number | undefined;
  /** Active slots may be overwritten, and the last one erased. */
  readonly force: boolean;
}

/**
 * @param options those of {@link LUKS_AMEND_OPTIONS}, behind `prefix`
 * @returns the header as it is now
 * @throws {BlockError} EINVAL in QEMU's words for what cannot be or would lose all data, EACCES when the secret of before
 *   opens no slot, and as `passwordOf` does.
 */
export function* amendKeySlots(
  volume: AmendedVolume,
  options: Readonly<Record<string, string>>,
  { prefix = "", force }: { readonly prefix?: string; readonly force: boolean },
): Co<LuksHeader> {
  const wanted = { ...parseWanted(options, prefix), force };
  return wanted.active ? yield* activate(volume, wanted) : yield* erase(volume, wanted);
}

function parseWanted(options: Readonly<Record<string, string>>, prefix: string): Omit<Wanted, "force"> {
  const number = (key: string): number | undefined => {
    const text = options[prefix + key];
    if (text === undefined) return undefined;
    if (/^-?\d+$/.test(text)) return text.startsWith("-") ? -parseSize(text.slice(1)) : parseSize(text);
    throw invalid(`Parameter '${prefix}${key}' expects a number`);
  };
  const slot = number("keyslot");
  const iterTimeMs = number("iter-time");
  const state = options[`${prefix}state`];
  if (state === undefined) throw invalid("Parameter 'state' is missing");
  if (state !== "active" && state !== "inactive") throw invalid(`Parameter 'state' does not accept value '${state}'`);
  const secrets = { newSecret: options[`${prefix}new-secret`], oldSecret: options[`${prefix}old-secret`] };
  return { active: state === "active", slot, iterTimeMs, ...secrets };
}

function* activate(volume: AmendedVolume, wanted: Wanted): Co<LuksHeader> {
  const { header, environment, keySecret, keyOption } = volume;
  if (wanted.newSecret === undefined) throw invalid("'new-secret' is required to activate a keyslot");
  if (wanted.oldSecret !== undefined) throw invalid("'old-secret' must not be given when activating keyslots");
  const index = wanted.slot ?? header.slots.findIndex(({ active }) => !active);
  if (index < 0 && wanted.slot === undefined) throw invalid("Can't add a keyslot - all keyslots are in use");
  const { active, keyOffset } = slotAt(header, index);
  if (active && !wanted.force) throw invalid(`Refusing to overwrite active keyslot ${index} - please erase it first`);
  const masterKey = yield* unlock(
    header,
    volumeReader(volume),
    passwordOf(environment, keyOption, keySecret),
    environment,
  );
  const password = passwordOf(environment, "new-secret", wanted.newSecret);
  const iterations = yield* iterationsIn(wanted.iterTimeMs ?? ITER_TIME_MS, header, environment);
  const { salt, material } = yield* sealKey(header, masterKey, { password, iterations }, environment);
  const slot: KeySlot = { active: true, iterations, salt, keyOffset };
  yield* writeSlot(volume, index, { ...slot, active: false });
  yield* writeDurably(volume, keyOffset, material);
  yield* writeSlot(volume, index, slot);
  return withSlot(header, index, slot);
}

function* erase(volume: AmendedVolume, wanted: Wanted): Co<LuksHeader> {
  if (wanted.newSecret !== undefined) throw invalid("'new-secret' must not be given when erasing keyslots");
  if (wanted.iterTimeMs !== undefined) throw invalid("'iter-time' must not be given when erasing keyslots");
  let { header } = volume;
  for (const index of yield* erasedSlots(volume, wanted)) {
    const { keyOffset } = slotAt(header, index);
    const slot: KeySlot = { active: false, iterations: 0, salt: new Uint8Array(SALT_BYTES), keyOffset };
    yield* writeSlot(volume, index, slot);
    yield* writeDurably(volume, keyOffset, randomBytes(volume.environment.random, keyMaterialBytes(header.keyBytes)));
    header = withSlot(header, index, slot);
  }
  return header;
}

function* erasedSlots(volume: AmendedVolume, { slot, oldSecret, force }: Wanted): Co<number[]> {
  const { header, environment } = volume;
  const activeCount = header.slots.filter(({ active }) => active).length;
  const password = oldSecret === undefined ? undefined : passwordOf(environment, "old-secret", oldSecret);
  if (slot === undefined && password === undefined)
    throw invalid(
      "To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given",
    );
  const active = slot === undefined || slotAt(header, slot).active;
  const tried = { only: slot };
  const opened =
    password === undefined ? [] : yield* openSlots(header, volumeReader(volume), { password, ...tried }, environment);
  if (slot === undefined) {
    if (opened.length === 0) throw invalid("No keyslots match given (old) password for erase operation");
    if (opened.length === activeCount && !force)
      throw invalid(
        "All the active keyslots match the (old) password that was given and erasing them will erase all the data in " +
          "the image irreversibly - refusing operation",
      );
    return opened.map(({ index }) => index);
  }
  if (password !== undefined && opened.length === 0)
    throw invalid(`Given keyslot ${slot} doesn't contain the given old password for erase operation`);
  if (!active && !force) throw invalid(`Given keyslot ${slot} is already erased (inactive) `);
  if (activeCount === 1 && !force)
    throw invalid(
      `Attempt to erase the only active keyslot ${slot} which will erase all the data in the image irreversibly - ` +
        "refusing operation",
    );
  return [slot];
}

/** @throws {BlockError} EINVAL when there is no such slot; the number is told as C's unsigned int. */
function slotAt({ slots }: LuksHeader, index: number): KeySlot {
  const slot = slots[index];
  if (slot !== undefined) return slot;
  const told = ((index % 2 ** 32) + 2 ** 32) % 2 ** 32;
  throw invalid(`Invalid keyslot ${told} specified, must be between 0 and ${slots.length - 1}`);
}

/** A slot may cross a sector: the word that makes it active is written last, and the one that makes it inactive first. */
function* writeSlot(volume: AmendedVolume, index: number, slot: KeySlot): Co<void> {
  const at = keySlotOffset(index);
  yield* writeDurably(volume, at, formatKeySlot({ ...slot, active: false }).subarray(0, 4));
  yield* writeDurably(volume, at + 4, formatKeySlot(slot).subarray(4));
  if (slot.active) yield* writeDurably(volume, at, formatKeySlot(slot).subarray(0, 4));
}

function* writeDurably({ file, offset }: AmendedVolume, at: number, bytes: Uint8Array): Co<void> {
  yield* file.write(offset + at, IoVector.of(bytes));
  yield* file.flush();
}

function withSlot(header: LuksHeader, index: number, slot: KeySlot): LuksHeader {
  return { ...header, slots: header.slots.with(index, slot) };
}

function invalid(message: string): BlockError {
  return new BlockError("EINVAL", message);
}
