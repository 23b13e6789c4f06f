import { BlockError, SeededRandom } from "@spindle/base";
import { BlockNode, type Children, IoVector } from "@spindle/block";
import { MemoryDriver, randomBytes } from "@spindle/testkit";
import { afterAll, describe, expect, it } from "vitest";
import { luksFormat } from "../src/index.ts";
import { describeFormat } from "./describe-format.ts";
import { contentOf, environment, fileNode, PASSWORD, readBytes, run, writeBytes } from "./open-image.ts";
import { QemuImages, qemuImg, qemuIo } from "./qemu-images.ts";

const SIZE = 100 * 1024;
/** A key that takes no time. */
const QUICK = { "key-secret": "sec0", "iter-time": "1" };

const images = new QemuImages();
afterAll(() => images.remove());

function create(file: MemoryDriver, options: Record<string, string> = {}, size = SIZE): void {
  run(luksFormat.create!(fileNode(file), { size, options: { ...QUICK, ...options } }, environment));
}

function open(file: MemoryDriver, secret = "sec0", withoutData = false): BlockNode {
  const children: Children = { file: fileNode(file), backing: null };
  const inFlight = { ticket: () => 0, oldestTicket: () => Number.POSITIVE_INFINITY };
  const options = { "key-secret": secret };
  const request = { nodeName: "luks", options, children, readOnly: false, environment, inFlight, withoutData };
  return new BlockNode({
    name: "luks",
    driver: run(luksFormat.open(request)),
    children,
    readOnly: false,
    tracker: null,
  });
}

const empty = new MemoryDriver();
create(empty, {}, 0);

describeFormat("luks", empty, (file) => open(file).driver);

const KINDS: readonly Record<string, string>[] = [
  {},
  { "cipher-alg": "aes-128" },
  { "cipher-alg": "aes-192", "hash-alg": "sha1" },
  { "ivgen-alg": "plain", "hash-alg": "sha512" },
  { "ivgen-alg": "essiv", "hash-alg": "sha384" },
  { "cipher-alg": "aes-128", "cipher-mode": "cbc", "hash-alg": "md5" },
  { "cipher-mode": "cbc", "ivgen-alg": "essiv", "ivgen-hash-alg": "sha256", "hash-alg": "ripemd160" },
  { "cipher-mode": "cbc", "ivgen-alg": "plain", "ivgen-hash-alg": "sha1", "hash-alg": "sha224" },
];

describe.skipIf(qemuImg === undefined || qemuIo === undefined)("a LUKS volume", () => {
  const secret = ["--object", `secret,id=sec0,data=${PASSWORD}`];
  const byKey = (name: string): string => `driver=luks,key-secret=sec0,file.filename=${images.path(name)}`;
  const disk = (name: string): Uint8Array => {
    images.img("convert", ...secret, "--image-opts", byKey(name), "-O", "raw", "disk.raw");
    return images.bytes("disk.raw");
  };

  it.each(KINDS.filter((_kind, index) => index % 2 === 0))("that QEMU has made is read and written: %j", (kind) => {
    const options = Object.entries({ ...QUICK, ...kind }).map(([key, value]) => `${key}=${value}`);
    images.imgAgain("create", "-q", ...secret, "-f", "luks", "-o", options.join(","), "theirs.luks", String(SIZE));
    const random = new SeededRandom(1);
    const bytes = randomBytes(random, SIZE);
    images.put("source.raw", bytes);
    images.img("convert", ...secret, "-n", "-f", "raw", "--target-image-opts", "source.raw", byKey("theirs.luks"));
    const file = new MemoryDriver(images.bytes("theirs.luks"));
    const node = open(file);
    expect(Buffer.compare(readBytes(node, 0, SIZE), bytes)).toBe(0);
    bytes.set(randomBytes(random, 5000), 1111);
    writeBytes(node, 1111, bytes.slice(1111, 6111));
    images.put("theirs.luks", contentOf(file.content));
    expect(Buffer.compare(disk("theirs.luks"), bytes)).toBe(0);
  });

  it.each(KINDS)("that is made here is read by QEMU, which tells the same of it: %j", (kind) => {
    const file = new MemoryDriver();
    create(file, kind);
    const node = open(file);
    const bytes = randomBytes(new SeededRandom(2), SIZE);
    writeBytes(node, 0, bytes);
    images.put("ours.luks", contentOf(file.content));
    expect(Buffer.compare(disk("ours.luks"), bytes)).toBe(0);
    const info = JSON.parse(images.img("info", "--output=json", "-f", "luks", "ours.luks"));
    expect(node.driver.information?.()["format-specific"]).toEqual(info["format-specific"]);
  });

  const slot = (index: number): number => 208 + index * 48;
  const text = (value: string): Uint8Array => new TextEncoder().encode(`${value}\0`);
  const word = (value: number): Uint8Array => Uint8Array.from([24, 16, 8, 0].map((bits) => (value >>> bits) & 0xff));
  const ROWS: readonly (readonly [what: string, at: number, bytes: Uint8Array])[] = [
    ["another magic", 0, text("X")],
    ["version 2", 6, Uint8Array.of(0, 2)],
    ["a cipher's name without an end", 8, new Uint8Array(32).fill(97)],
    ["a mode without an end", 40, new Uint8Array(32).fill(97)],
    ["a hash's name without an end", 72, new Uint8Array(32).fill(97)],
    ["an unknown cipher", 8, text("foo")],
    ["a mode without a generator", 40, text("xts")],
    ["an unknown mode", 40, text("foo-plain64")],
    ["an unknown generator", 40, text("xts-foo")],
    ["essiv without a hash", 40, text("xts-essiv")],
    ["essiv with an unknown hash", 40, text("xts-essiv:foo")],
    ["essiv with a hash that is no key", 40, text("xts-essiv:sha1")],
    ["an unknown hash that nobody needs", 40, text("xts-plain:foo")],
    ["an unknown hash", 72, text("foo")],
    ["a payload in the header", 104, word(7)],
    ["a payload in the first slot", 104, word(8)],
    ["no key", 108, word(0)],
    ["a key too long for its slot", 108, word(65)],
    ["a key of 4 GiB", 108, word(0xffffffff)],
    ["no iterations of the digest", 164, word(0)],
    ["a slot of neither state", slot(0), word(1)],
    ["no iterations of a slot", slot(0) + 4, word(0)],
    ["a slot in the header", slot(0) + 40, word(7)],
    ["a slot in another one", slot(1) + 40, word(9)],
    ["a slot in the payload", slot(7) + 40, word(4000)],
    ["no stripes", slot(0) + 44, word(0)],
    ["stripes without end", slot(1) + 44, word(0xffffffff)],
  ];

  it.each(ROWS)("with %s is refused in QEMU's words", (_what, at, bytes) => {
    const file = new MemoryDriver();
    file.content.write(0, sound);
    file.content.write(at, bytes);
    images.put("bad.luks", contentOf(file.content));
    const { stderr } = images.tryImg("info", "-f", "luks", "bad.luks");
    const said = stderr.trim().replace("qemu-img: Could not open 'bad.luks': ", "");
    expect(said).not.toBe("");
    expect(() => open(file, "sec0", true)).toThrow(new BlockError("EINVAL", said));
  });

  it("may be cut off anywhere", () => {
    for (let length = 0; length < 600; length += 7)
      expect(() => open(new MemoryDriver(sound.slice(0, length)), "sec0", true)).toThrow(BlockError);
  });
});

const made = new MemoryDriver();
create(made);
const sound = contentOf(made.content);

describe("a LUKS volume's key", () => {
  it("opens with no other password", () => {
    expect(() => open(made, "wrong")).toThrow("Invalid password, cannot unlock any keyslot");
    expect(() => open(made, "nobody")).toThrow("No secret with id 'nobody'");
  });

  it("is not needed to tell what the volume is, and then nothing can be read", () => {
    const node = open(made, "wrong", true);
    expect(node.driver.information?.()).toMatchObject({ encrypted: true, "format-specific": { type: "luks" } });
    expect(() => run(node.read(0, IoVector.of(new Uint8Array(512))))).toThrow(/without its key/);
  });

  it.each([
    ["a slot", 212],
    ["its digest", 164],
  ])("is not looked for when %s asks for hours of iterations", (_what, at) => {
    const file = new MemoryDriver(sound.slice());
    file.content.write(at, Uint8Array.of(0xff, 0xff, 0xff, 0xff));
    const started = performance.now();
    expect(() => open(file)).toThrow(/iteration counts of the key slots are too large/);
    expect(performance.now() - started).toBeLessThan(1000);
  });

  it.each([
    [{ "cipher-alg": "serpent-256" }, "Algorithm 'serpent-256' is not supported here"],
    [{ "cipher-mode": "ctr" }, "Cipher mode 'ctr' is not supported here"],
    [{ "cipher-alg": "3des" }, "Algorithm '3des' not supported"],
    [{ "cipher-alg": "foo" }, "Parameter 'cipher-alg' does not accept value 'foo'"],
    [{ "iter-time": "x" }, "Parameter 'iter-time' expects a number"],
    [{ "iter-time": "100000000" }, /^PBKDF iterations \d+ larger than \d+$/],
    [
      { "cipher-mode": "cbc", "ivgen-alg": "essiv", "ivgen-hash-alg": "sha1" },
      "No AES cipher with key size 20 available",
    ],
  ] as const)("is not made for what is not here: %j", (options, reason) => {
    expect(() => create(new MemoryDriver(), options)).toThrow(reason);
  });
});
