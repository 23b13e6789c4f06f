/**
 * Fetches QEMU's iotests: Debian's source package of the version that the reference programs have, with Debian's patches.
 * Nothing of it is part of this project; it stays in a cache folder of the user.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** The release of Debian whose QEMU is 7.2. */
const RELEASE = "bookworm";
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";
const SOURCES = [
  `deb-src [signed-by=${KEYRING}] http://deb.debian.org/debian ${RELEASE} main`,
  `deb-src [signed-by=${KEYRING}] http://deb.debian.org/debian-security ${RELEASE}-security main`,
];

/** What the tests need of the tree, side by side as they stand in it. */
const NEEDED = ["tests/qemu-iotests", "python", "scripts"];

/** The folder for what is fetched once and kept. */
function cacheFolder(): string {
  return join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "spindle", "iotests");
}

/** The folder of the tests, or undefined when they have not been fetched. */
export function fetchedTests(): string | undefined {
  const folder = join(cacheFolder(), "qemu", "tests", "qemu-iotests");
  return existsSync(folder) ? folder : undefined;
}

/**
 * Fetches the tests unless they are there. Takes apt and dpkg-source, but no rights and no changes of the host's package
 * sources.
 * @returns their folder
 */
export function fetchTests(): string {
  const there = fetchedTests();
  if (there !== undefined) return there;
  const cache = cacheFolder();
  mkdirSync(cache, { recursive: true });
  const work = mkdtempSync(join(cache, "fetch-"));
  try {
    download(work);
    const [description = ""] = execFileSync("sh", ["-c", "ls *.dsc"], { cwd: work, encoding: "utf8" }).split("\n");
    execFileSync("dpkg-source", ["--extract", description, "tree"], { cwd: work, stdio: "ignore" });
    const kept = join(work, "qemu");
    mkdirSync(join(kept, "tests"), { recursive: true });
    for (const path of NEEDED) renameSync(join(work, "tree", path), join(kept, path));
    renameSync(kept, join(cache, "qemu"));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return fetchTests();
}

function download(work: string): void {
  const lists = join(work, "lists");
  mkdirSync(join(lists, "partial"), { recursive: true });
  writeFileSync(join(work, "sources.list"), `${SOURCES.join("\n")}\n`);
  const options = [
    `Dir::Etc::SourceList=${join(work, "sources.list")}`,
    "Dir::Etc::SourceParts=-",
    `Dir::State::Lists=${lists}`,
    `Dir::Cache=${work}`,
    // The user whom apt would become for this cannot write here.
    "APT::Sandbox::User=root",
  ].flatMap((option) => ["-o", option]);
  const apt = (...argv: string[]): void => {
    execFileSync("apt-get", ["-q", ...options, ...argv], { cwd: work, stdio: ["ignore", "ignore", "inherit"] });
  };
  apt("update");
  apt("source", "--download-only", "qemu");
}
