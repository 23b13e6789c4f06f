/**
 * A small Linux for virtual machines, made of Debian's packages and kept in a cache folder: the cloud kernel, uncompressed;
 * its modules and busybox as the first file system; and a disk with the programs of file systems and fio.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, join } from "node:path";
import { peer } from "@spindle/testkit/peers";
import { type ArchiveFile, makeArchive } from "./cpio.ts";
import { decompressLz4, LZ4_LEGACY_MAGIC } from "./lz4.ts";

const KERNEL_PACKAGE = "linux-image-cloud-amd64";
/** In the order in which those without dependencies between them are loaded. */
const MODULES = ["virtio_pci", "virtio_blk", "xfs"];
const PROGRAMS = ["fio", "mkfs.ext4", "e2fsck", "mkfs.xfs", "xfs_repair"];

/** Files with which a virtual machine starts. */
export interface DebianGuest {
  readonly kernel: string;
  /** The first file system, without the script that it runs: `/script`. */
  readonly initrd: string;
  /** A read-only disk with programs. */
  readonly tools: string;
}

/**
 * The guest, if everything is here that is needed: QEMU, busybox, the programs, Debian's own, and, the first time, the
 * network.
 * @throws {Error} when something is missing and `SPINDLE_REQUIRE_PEERS=1`.
 */
export function availableGuest(): DebianGuest | undefined {
  const names = ["qemu-system-x86_64", "busybox", "mke2fs", "apt-get", "dpkg-deb", "ldd", ...PROGRAMS];
  if (names.map((name) => peer(name)).includes(undefined)) return undefined;
  try {
    return debianGuest();
  } catch (error) {
    if (process.env["SPINDLE_REQUIRE_PEERS"] === "1") throw error;
    process.stderr.write(`\n*** no kernel for guests: the tests that boot one are SKIPPED (${String(error)}) ***\n`);
    return undefined;
  }
}

/** Builds the guest, or takes it from the cache. */
function debianGuest(): DebianGuest {
  const cache = join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "spindle", "guests");
  mkdirSync(cache, { recursive: true });
  const version = kernelPackage();
  const unpacked = unpackedKernel(cache, version);
  const programs = PROGRAMS.map((name) => realpathSync(peer(name) as string));
  const busybox = peer("busybox") as string;
  const state = [version, ...[busybox, ...programs].map((path) => `${path} ${statSync(path).mtimeMs}`)];
  const sources = ["debian-guest.ts", "cpio.ts", "lz4.ts"].map((name) => readFileSync(new URL(name, import.meta.url)));
  const key = createHash("sha256").update(state.join("\n")).update(Buffer.concat(sources)).digest("hex").slice(0, 16);
  const folder = join(cache, key);
  const guest = { kernel: join(folder, "kernel"), initrd: join(folder, "initrd"), tools: join(folder, "tools") };
  if (existsSync(folder)) return guest;
  const making = mkdtempSync(join(cache, "making-"));
  writeFileSync(join(making, "kernel"), uncompressedKernel(unpacked));
  writeFileSync(join(making, "initrd"), makeArchive([...firstFiles(busybox), ...moduleFiles(unpacked)]));
  makeToolsDisk(making, programs);
  try {
    renameSync(making, folder);
  } catch {
    // Somebody else was faster.
    rmSync(making, { recursive: true, force: true });
  }
  return guest;
}

/** The package of the newest kernel: the one that is named above only depends on it. */
function kernelPackage(): string {
  const text = execFileSync("apt-cache", ["depends", KERNEL_PACKAGE], { encoding: "utf8" });
  const name = /Depends: (linux-image-\S+)/.exec(text)?.[1];
  if (name === undefined) throw new Error(`apt-cache knows no kernel: is the package list there (apt-get update)?`);
  return name;
}

function unpackedKernel(cache: string, name: string): string {
  const folder = join(cache, name);
  if (existsSync(folder)) return folder;
  const making = mkdtempSync(join(cache, "kernel-"));
  execFileSync("apt-get", ["-qq", "download", name], { cwd: making, stdio: ["ignore", "ignore", "pipe"] });
  const archive = readdirSync(making).find((file) => file.endsWith(".deb")) as string;
  execFileSync("dpkg-deb", ["-x", archive, "root"], { cwd: making });
  renameSync(join(making, "root"), folder);
  rmSync(making, { recursive: true });
  return folder;
}

/** The kernel without its own decompressor, which is slow in an emulated processor; QEMU starts it through PVH. */
function uncompressedKernel(unpacked: string): Buffer {
  const boot = join(unpacked, "boot");
  const name = readdirSync(boot).find((file) => file.startsWith("vmlinuz-")) as string;
  const image = readFileSync(join(boot, name));
  // The setup header of the x86 boot protocol: setup_sects, payload_offset, payload_length.
  const start = ((image[0x1f1] as number) + 1) * 512 + image.readUInt32LE(0x248);
  // The payload ends with the length that it unpacks to.
  const payload = image.subarray(start, start + image.readUInt32LE(0x24c) - 4);
  return payload.readUInt32LE(0) === LZ4_LEGACY_MAGIC ? decompressLz4(payload) : image;
}

const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
tries=0; while [ ! -b /dev/vdb ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries+1)); done
mount -r -t ext4 /dev/vdb /tools
for folder in proc sys dev; do mount --bind /$folder /tools/$folder; done
mount -t tmpfs tmp /tools/tmp
tool() { chroot /tools "$@"; }
. /script
echo "guest: the end"
poweroff -f
`;

function firstFiles(busybox: string): ArchiveFile[] {
  const folders = ["bin", "dev", "proc", "sys", "mnt", "tools", "modules", "tmp"].map((path) => ({ path }));
  return [
    ...folders,
    { path: "bin/busybox", content: readFileSync(busybox), executable: true },
    { path: "init", content: INIT, executable: true },
  ];
}

function moduleFiles(unpacked: string): ArchiveFile[] {
  const found = new Map<string, string>();
  for (const path of readdirSync(unpacked, { recursive: true, encoding: "utf8" }))
    if (path.endsWith(".ko")) found.set(basename(path, ".ko").replaceAll("-", "_"), join(unpacked, path));
  const order: string[] = [];
  const add = (name: string): void => {
    const path = found.get(name);
    if (path === undefined || order.includes(name)) return;
    const depends = /\0depends=([^\0]*)\0/.exec(readFileSync(path, "latin1"))?.[1] ?? "";
    for (const other of depends.split(",")) add(other.replaceAll("-", "_"));
    order.push(name);
  };
  for (const name of MODULES) add(name);
  const files = order.map((name) => ({
    path: `modules/${name}.ko`,
    content: readFileSync(found.get(name) as string),
  }));
  return [...files, { path: "modules/order", content: order.map((name) => `${name}.ko`).join("\n") }];
}

/** Programs with the libraries that they need, at their own paths. */
function makeToolsDisk(folder: string, programs: readonly string[]): void {
  const root = join(folder, "root");
  for (const path of ["proc", "sys", "dev", "tmp", "mnt", "usr/sbin"]) mkdirSync(join(root, path), { recursive: true });
  const libraries = programs.flatMap((program) =>
    [...execFileSync("ldd", [program], { encoding: "utf8" }).matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] ?? ""),
  );
  for (const path of new Set(libraries)) {
    mkdirSync(join(root, dirname(path)), { recursive: true });
    copyFileSync(path, join(root, path));
  }
  PROGRAMS.forEach((name, index) => {
    copyFileSync(programs[index] as string, join(root, "usr/sbin", name));
  });
  execFileSync(peer("mke2fs") as string, ["-q", "-t", "ext4", "-d", root, join(folder, "tools"), "400M"]);
  rmSync(root, { recursive: true });
}
