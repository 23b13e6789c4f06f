/** Passwords that are added and erased, with QEMU's words for what cannot be, and by each program for the other. */
import { isBlockError, SeededRandom } from "@spindle/base";
import { BlockNode, type Children } from "@spindle/block";
import { crashStates, type FaultyDriver, MemoryDriver, RecordedDriver, SparseBytes } from "@spindle/testkit";
import { afterAll, describe, expect, it } from "vitest";
import { luksFormat } from "../src/index.ts";
import { contentOf, createQcow2, environment, fileNode, openQcow2, PASSWORD, run } from "./open-image.ts";
import { QemuImages, qemuImg } from "./qemu-images.ts";

const SIZE = 64 * 1024;
const OTHER = "incorrect horse";
const SECRETS = ["--object", `secret,id=sec0,data=${PASSWORD}`, "--object", `secret,id=wrong,data=${OTHER}`];

const images = new QemuImages();
afterAll(() => images.remove());

/** A volume by itself, or the header of an encrypted qcow2 image: what its options begin with, and how it is opened. */
interface Kind {
  readonly name: string;
  readonly prefix: string;
  make(): MemoryDriver;
  open(file: MemoryDriver | RecordedDriver | FaultyDriver, secret: string): BlockNode;
  byOptions(secret: string): string;
}

const request = { inFlight: { ticket: () => 0, oldestTicket: () => Number.POSITIVE_INFINITY }, readOnly: false };

const KINDS: readonly Kind[] = [
  {
    name: "luks",
    prefix: "",
    make() {
      const file = new MemoryDriver();
      run(
        luksFormat.create!(
          fileNode(file),
          { size: SIZE, options: { "key-secret": "sec0", "iter-time": "1" } },
          environment,
        ),
      );
      return file;
    },
    open(file, secret) {
      const children: Children = { file: fileNode(file), backing: null };
      const options = { "key-secret": secret };
      const driver = run(luksFormat.open({ nodeName: "image", options, children, environment, ...request }));
      return new BlockNode({ name: "image", driver, children, readOnly: false, tracker: null });
    },
    byOptions: (secret) => `driver=luks,file.filename=image,key-secret=${secret}`,
  },
  {
    name: "qcow2",
    prefix: "encrypt.",
    make() {
      const file = new MemoryDriver();
      const key = { "encrypt.format": "luks", "encrypt.key-secret": "sec0", "encrypt.iter-time": "1" };
      createQcow2(file, SIZE, { ...key, cluster_size: "4k" });
      return file;
    },
    open: (file, secret) => openQcow2(file, { options: { encrypt: { "key-secret": secret } } }),
    byOptions: (secret) => `driver=qcow2,file.filename=image,encrypt.key-secret=${secret}`,
  },
];

interface Step {
  readonly options: string;
  readonly force?: boolean;
  /** The secret that opens the image. */
  readonly by?: string;
  /** Not by QEMU, which takes a second to measure the host each time. */
  readonly hereOnly?: boolean;
}

const ADD = "state=active,iter-time=1,new-secret";
const STEPS: readonly Step[] = [
  { options: "new-secret=wrong" },
  { options: "state=foo" },
  { options: "state=active" },
  { options: `${ADD}=nobody` },
  { options: `${ADD}=wrong,keyslot=x` },
  { options: `${ADD}=wrong,keyslot=8` },
  { options: `${ADD}=wrong,keyslot=-1` },
  { options: `${ADD}=wrong,keyslot=0` },
  { options: `${ADD}=wrong,old-secret=sec0` },
  { options: `${ADD}=wrong,iter-time=x` },
  { options: `${ADD}=wrong,keyslot=6` },
  { options: "state=inactive" },
  { options: "state=inactive,keyslot=8" },
  { options: "state=inactive,keyslot=3" },
  { options: "state=inactive,keyslot=3", force: true },
  { options: "state=inactive,keyslot=6,iter-time=1" },
  { options: "state=inactive,keyslot=6,new-secret=sec0" },
  { options: "state=inactive,keyslot=6,old-secret=sec0" },
  { options: "state=inactive,old-secret=nobody" },
  { options: `${ADD}=sec0`, by: "wrong", hereOnly: true },
  { options: "state=inactive,old-secret=sec0", by: "wrong" },
  { options: "state=inactive,old-secret=sec0", by: "wrong" },
  { options: "state=inactive,old-secret=wrong", by: "wrong" },
  { options: "state=inactive,keyslot=6", by: "wrong" },
  { options: `${ADD}=sec0,keyslot=6`, by: "wrong", force: true, hereOnly: true },
  ...[0, 1, 2, 3, 4, 5, 7].map(() => ({ options: `${ADD}=wrong`, hereOnly: true })),
  { options: `${ADD}=wrong` },
  { options: "state=inactive,old-secret=wrong", force: true },
  { options: "state=inactive,old-secret=sec0", force: true },
];

/** The step's error, or `""`. */
function amendHere(kind: Kind, bytes: Uint8Array, { options, force = false, by = "sec0" }: Step): [string, Uint8Array] {
  const file = new MemoryDriver(bytes.slice());
  const entries = options.split(",").map((one) => [kind.prefix + one.split("=")[0], one.split("=")[1]]);
  try {
    const node = kind.open(file, by);
    run(node.exclusively(() => node.driver.amend!(Object.fromEntries(entries), () => {}, force)));
    run(node.driver.close());
    return ["", contentOf(file.content)];
  } catch (error) {
    if (!isBlockError(error)) throw error;
    return [error.message, contentOf(file.content)];
  }
}

function amendWithQemu(kind: Kind, bytes: Uint8Array, { options, force, by = "sec0" }: Step): [string, Uint8Array] {
  const prefixed = options.split(",").map((one) => kind.prefix + one);
  for (let attempt = 1; ; attempt++) {
    images.put("image", bytes);
    const how = force === true ? ["--force"] : [];
    const argv = [...how, ...SECRETS, "-o", prefixed.join(","), "--image-opts", kind.byOptions(by)];
    const { stderr } = images.tryImg("amend", ...argv);
    // Making a key fails on hosts that are too busy to measure their speed.
    if (!stderr.includes("CPU usage") || attempt === 5)
      return [stderr.replace(/^qemu-img: /, "").replace(/\n$/, ""), images.bytes("image")];
  }
}

/** Which slots are active, and which of the two secrets opens the image, as qemu-img tells it. */
function judged(kind: Kind, bytes: Uint8Array): unknown {
  images.put("image", bytes);
  const told = JSON.parse(images.img("info", "--output=json", "-f", kind.name, "image"));
  const { data } = told["format-specific"];
  const slots = (data.encrypt ?? data).slots as { active: boolean }[];
  const opens = (secret: string): boolean =>
    images.tryImg("map", ...SECRETS, "--image-opts", kind.byOptions(secret)).code === 0;
  return [slots.map(({ active }) => active), opens("sec0"), opens("wrong")];
}

describe.each(KINDS)("the passwords of $name", (kind) => {
  it.skipIf(qemuImg === undefined)("are changed as by QEMU, or not, for the same reasons", { timeout: 120_000 }, () => {
    let bytes = contentOf(kind.make().content);
    // What is special about a volume in an image is where it stands.
    for (const [index, step] of (kind.prefix === "" ? STEPS : STEPS.slice(0, 14)).entries()) {
      const name = `${index}: ${step.options}`;
      const [said, ours] = amendHere(kind, bytes, step);
      if (step.hereOnly === true) bytes = ours;
      if (step.hereOnly === true) continue;
      const [saidThere, theirs] = amendWithQemu(kind, bytes, step);
      expect(said, name).toBe(saidThere);
      if (said !== "") expect(Buffer.compare(ours, bytes), name).toBe(0);
      else expect(judged(kind, ours), name).toEqual(judged(kind, theirs));
      // Each goes on with what the other has made.
      bytes = index % 2 === 0 ? theirs : ours;
    }
  });

  it("are those of before or of after when the power fails", () => {
    const before = contentOf(kind.make().content);
    const opens = (bytes: Uint8Array, secret: string): boolean => {
      try {
        kind.open(new MemoryDriver(bytes), secret);
        return true;
      } catch (error) {
        return !isBlockError(error, "EACCES");
      }
    };
    const file = new RecordedDriver(SparseBytes.of(before));
    const node = kind.open(file, "sec0");
    const amend = (options: Record<string, string>): void => {
      const entries = Object.entries(options).map(([key, value]) => [kind.prefix + key, value]);
      run(node.driver.amend!(Object.fromEntries(entries), () => {}, false));
    };
    amend({ state: "active", "new-secret": "wrong", "iter-time": "1", keyslot: "6" });
    amend({ state: "inactive", keyslot: "0" });
    for (const { image, description } of crashStates(file.log, new SeededRandom(1), 12)) {
      const bytes = contentOf(image);
      expect(opens(bytes, "sec0") || opens(bytes, "wrong"), description).toBe(true);
    }
    expect(opens(contentOf(file.content), "sec0")).toBe(false);
    expect(opens(contentOf(file.content), "wrong")).toBe(true);
  });
});
