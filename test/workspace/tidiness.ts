/** What keeps the tree easy to walk: names, sizes, and pages that name only what is there. */
import { posix } from "node:path";
import { json, type Manifest, packageOf, type Workspace } from "./workspace.ts";

const BANNED_NAMES = new Set(["utils", "util", "helpers", "helper", "common", "types", "misc"]);
const FILE_NAME = /^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z]+)*\.ts$/;
export const FILE_LINES_MAX = 500;

/** Sources are named in kebab-case, and for what they hold. */
export function checkFileNames({ files }: Workspace): string[] {
  return typeScript(files.keys()).flatMap((path) => {
    const name = posix.basename(path);
    if (!FILE_NAME.test(name)) return [`${path} is not named in kebab-case`];
    const stem = name.slice(0, name.indexOf("."));
    return BANNED_NAMES.has(stem) ? [`${path} says nothing of what it holds`] : [];
  });
}

export function checkFileSizes({ files }: Workspace): string[] {
  return typeScript(files.keys()).flatMap((path) => {
    const lines = (files.get(path) ?? "").split("\n").length - 1;
    return lines > FILE_LINES_MAX ? [`${path} has ${lines} lines, more than ${FILE_LINES_MAX}`] : [];
  });
}

/** Paths as pages and comments name them: with a known folder first, or with a file's ending. */
const NAMED_PATH =
  /(?<![\w./@:-])(?:(?:packages|tools|test|bench|docs)(?:\/[\w.-]+)+|[\w-]+(?:\/[\w.-]+)+\.(?:ts|md|json|yaml|js))/g;
const LINK = /\]\((?!\w+:|#)([^)#\s]+)/g;

/** Every path that a page names is there; so is every page that a source names. */
export function checkNamedPaths(workspace: Workspace): string[] {
  const { files } = workspace;
  return [...files].flatMap(([path, text]) => {
    const isPage = path.endsWith(".md");
    const paths = [...text.matchAll(NAMED_PATH)].map(([named]) => named.replace(/\.$/, ""));
    const named = isPage
      ? paths
      : typeScript([path]).length === 0
        ? []
        : paths.filter((one) => /^docs\/.*\.md$/.test(one));
    const links = isPage ? [...text.matchAll(LINK)].map((match) => match[1] ?? "") : [];
    const folder = packageOf(workspace, path)?.folder ?? "";
    // A page under docs that bears a package's name counts from that package.
    const bases = ["", "packages", folder, posix.dirname(path), `packages/${posix.basename(path, ".md")}`];
    return [...new Set([...named, ...links])]
      .filter((one) => !isGenerated(one) && !bases.some((base) => isThere(files, posix.join(base, one))))
      .map((one) => `${path} names ${one}, which is not there`);
  });
}

/** Folders of a machine that nobody else has. */
const MACHINE_PATH = /(?<![\w.:/])\/(?:work|home|root|Users)\/\w[\w./-]*/g;

/** No file names a path of the machine on which it was written. */
export function checkMachinePaths({ files }: Workspace): string[] {
  return [...files].flatMap(([path, text]) =>
    [...text.matchAll(MACHINE_PATH)].map(([named]) => `${path} names ${named}, a path of one machine`),
  );
}

const NATIVE = /^ {2}'?(?<family>[@\w/.-]+?)-(?<system>linux|darwin|win32)-[\w-]+@/gm;
/** Node itself is taken from the registry for Linux only; elsewhere the user brings it. */
const LINUX_ONLY = new Set(["node"]);

/**
 * The lockfile holds every native package for Linux, macOS and Windows. A registry that lacks the binaries of one
 * system makes the package manager leave them out without a word, and the frozen lockfile then fails there.
 */
export function checkNativePackages({ files }: Workspace): string[] {
  const families = new Map<string, Set<string>>();
  for (const { groups } of (files.get("pnpm-lock.yaml") ?? "").matchAll(NATIVE)) {
    const { family = "", system = "" } = groups ?? {};
    families.set(family, (families.get(family) ?? new Set()).add(system));
  }
  if (families.size === 0) return ["pnpm-lock.yaml holds no native package at all"];
  return [...families].flatMap(([family, systems]) =>
    ["linux", "darwin", "win32"]
      .filter((system) => !systems.has(system) && !LINUX_ONLY.has(family))
      .map((system) => `pnpm-lock.yaml lacks ${family} for ${system}`),
  );
}

/** The commands that the pages promise. */
export function checkScripts({ files }: Workspace): string[] {
  const { scripts = {} } = json<Manifest>(files, "package.json");
  return ["setup", "start", "test", "check", "bench", "simulate", "soak"]
    .filter((name) => scripts[name] === undefined)
    .map((name) => `package.json has no script '${name}'`);
}

/** Every version from outside is named once, in the catalog, and exactly. */
export function checkVersions({ files, packages }: Workspace): string[] {
  const manifests = [...packages.map(({ manifest }) => manifest), json<Manifest>(files, "package.json")];
  const loose = manifests.flatMap(({ name, dependencies, devDependencies, optionalDependencies }) =>
    Object.entries({ ...dependencies, ...devDependencies, ...optionalDependencies })
      .filter(([, version]) => !/^(workspace:\*|catalog:|\d+\.\d+\.\d+)$/.test(version))
      .map(([dependency, version]) => `${name} takes ${dependency} as ${version}, which is not exact`),
  );
  const catalog = (files.get("pnpm-workspace.yaml") ?? "").split(/^catalog:$/m)[1]?.split(/^\S/m)[0] ?? "";
  const entries = [...catalog.matchAll(/^ {2}"?([@\w/-]+)"?: (\S+)$/gm)];
  const ranges = entries.filter((entry) => !/^\d+\.\d+\.\d+$/.test(entry[2] ?? ""));
  return [...loose, ...ranges.map((entry) => `the catalog takes ${entry[1]} as ${entry[2]}, which is not exact`)];
}

function typeScript(paths: Iterable<string>): string[] {
  return [...paths].filter((path) => path.endsWith(".ts"));
}

function isGenerated(path: string): boolean {
  return /(^|\/)(dist|node_modules|results)(\/|$)/.test(path);
}

function isThere(files: Workspace["files"], path: string): boolean {
  const plain = path.replace(/\/$/, "");
  if (files.has(plain)) return true;
  for (const one of files.keys()) if (one.startsWith(`${plain}/`)) return true;
  return false;
}
