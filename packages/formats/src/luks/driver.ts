/** Driver `luks`: a file that begins with a LUKS header, version 1, and holds the disk, encrypted, behind it. */
import { alignUp, BlockError, type Co, SECTOR_SIZE } from "@spindle/base";
import {
  type BlockDriver,
  type BlockNode,
  type Children,
  type CreateOptions,
  type DriverDefinition,
  type Environment,
  type Extent,
  type ImageInformation,
  IoVector,
  type MeasuredSize,
  type MeasureOptions,
  type OpenRequest,
  type Preallocation,
} from "@spindle/block";
import { checkFileOptions, FILE_CREATE_OPTIONS } from "../file-create-options.ts";
import { amendKeySlots, LUKS_AMEND_OPTIONS } from "./amend.ts";
import { createVolume, planHeader } from "./create.ts";
import { LUKS_CREATE_OPTIONS, parseLuksOptions } from "./create-options.ts";
import { type EncryptedPlace, readEncrypted, writeEncrypted, zeros } from "./encrypted-data.ts";
import { isLuks, type LuksHeader } from "./header.ts";
import { luksInformation } from "./information.ts";
import { passwordOf } from "./secret.ts";
import { CIPHER_SECTOR, type SectorCipher } from "./sector-cipher.ts";
import { openVolume } from "./volume.ts";

const KEY_SECRET = "key-secret";

class LuksDriver implements BlockDriver {
  readonly name = "luks";
  readonly requestAlignment = CIPHER_SECTOR;
  readonly clusterSize = 1;
  readonly #children: Children;
  #header: LuksHeader;
  readonly #environment: Environment;
  readonly #keySecret: string | undefined;
  /** None was needed, because nobody reads or writes. */
  readonly #cipher: SectorCipher | null;

  constructor({ children, environment, options }: OpenRequest, header: LuksHeader, cipher: SectorCipher | null) {
    this.#children = children;
    this.#environment = environment;
    this.#keySecret = options[KEY_SECRET] as string | undefined;
    this.#header = header;
    this.#cipher = cipher;
  }

  get #file(): BlockNode {
    return this.#children.file as BlockNode;
  }

  length(): number {
    const length = alignUp(this.#file.length, SECTOR_SIZE) - this.#header.payloadOffset;
    return Math.max(0, length);
  }
  read(offset: number, vector: IoVector): Co<void> {
    return readEncrypted(this.#opened(), this.#file, this.#placeOf(offset), vector);
  }
  write(offset: number, vector: IoVector): Co<void> {
    return writeEncrypted(this.#opened(), this.#file, this.#placeOf(offset), vector);
  }
  /** Zeros are encrypted as everything else is: a hole would read as noise. */
  writeZeroes(offset: number, length: number): Co<void> {
    return this.write(offset, zeros(length));
  }
  *discard(): Co<void> {}
  flush(): Co<void> {
    return this.#file.flush();
  }
  *blockStatus(_offset: number, length: number): Co<Extent> {
    return { length, allocated: true, zero: false, data: true, compressed: false };
  }

  /** What is added reads as zeros. */
  *truncate(length: number, preallocation: Preallocation = "off"): Co<void> {
    const before = this.length();
    yield* this.#file.truncate(this.#header.payloadOffset + length, preallocation);
    if (length > before) yield* this.writeZeroes(before, length - before);
  }
  *amend(options: Readonly<Record<string, string>>, tell: (done: number) => void, force: boolean): Co<void> {
    const place = { file: this.#file, offset: 0, header: this.#header, environment: this.#environment };
    const volume = { ...place, keySecret: this.#keySecret, keyOption: KEY_SECRET };
    this.#header = yield* amendKeySlots(volume, options, { force });
    tell(1);
  }
  *close(): Co<void> {
    if (!this.#file.readOnly) yield* this.flush();
  }

  information(): ImageInformation {
    return { encrypted: true, "format-specific": { type: "luks", data: luksInformation(this.#header) } };
  }

  #placeOf(offset: number): EncryptedPlace {
    return { offset: this.#header.payloadOffset + offset, numbered: offset };
  }

  #opened(): SectorCipher {
    if (this.#cipher === null) throw new BlockError("EACCES", "the image was opened without its key");
    return this.#cipher;
  }
}

function* openLuks(request: OpenRequest): Co<LuksDriver> {
  const { children, environment, options, withoutData } = request;
  const file = (): BlockNode => children.file as BlockNode;
  const secret = options[KEY_SECRET] as string | undefined;
  const { header, cipher } = yield* openVolume(
    { file: file(), offset: 0 },
    withoutData === true ? null : () => passwordOf(environment, KEY_SECRET, secret),
    environment,
  );
  if (file().length < header.payloadOffset)
    throw new BlockError("EIO", "Could not refresh total sector count: Input/output error");
  return new LuksDriver(request, header, cipher);
}

function* createLuks(file: BlockNode, { size, options }: CreateOptions, environment: Environment): Co<void> {
  const parsed = parseLuksOptions(options);
  checkFileOptions(options);
  const preallocation = preallocationOf(options);
  const password = passwordOf(environment, KEY_SECRET, options[KEY_SECRET]);
  const { header, head } = yield* createVolume(parsed, password, environment);
  yield* file.truncate(header.payloadOffset + alignUp(size, SECTOR_SIZE), preallocation);
  yield* file.write(0, IoVector.of(head));
  yield* file.flush();
}

function preallocationOf({ preallocation = "off" }: CreateOptions["options"]): Preallocation {
  const mode = (["off", "metadata", "falloc", "full"] as const).find((one) => one === preallocation);
  if (mode !== undefined) return mode;
  throw new BlockError("EINVAL", `Parameter 'preallocation' does not accept value '${preallocation}'`);
}

function measureLuks({ size, options }: MeasureOptions): MeasuredSize {
  if (options[KEY_SECRET] === undefined)
    throw new BlockError("EINVAL", `Parameter '${KEY_SECRET}' is required for cipher`);
  const length = planHeader(parseLuksOptions(options)).payloadOffset + alignUp(size, SECTOR_SIZE);
  return { required: length, "fully-allocated": length };
}

export const luksFormat: DriverDefinition = {
  name: "luks",
  kind: "format",
  ownsFile: true,
  newReadsAsAnything: true,
  options: { [KEY_SECRET]: "string" },
  probe: (head) => (isLuks(head) ? 100 : 0),
  open: openLuks,
  measure: measureLuks,
  createOptions: [...LUKS_CREATE_OPTIONS, KEY_SECRET, "preallocation", ...FILE_CREATE_OPTIONS],
  *prepareCheck(file, options, environment) {
    const password = (): Uint8Array => passwordOf(environment, KEY_SECRET, options[KEY_SECRET] as string | undefined);
    yield* openVolume({ file, offset: 0 }, password, environment);
  },
  amendOptions: LUKS_AMEND_OPTIONS,
  create: createLuks,
  optionsToOpen: ({ [KEY_SECRET]: secret }) => (secret === undefined ? {} : { [KEY_SECRET]: secret }),
};
