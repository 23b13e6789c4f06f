/** The repository as the checks see it: the text of every file of its own, and the packages among them. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** What set-up, builds and benches make; never part of the repository. */
const GENERATED = new Set(["node_modules", "dist", ".git", ".vitest", "results", "coverage"]);
const TEXT_FILE = /\.(ts|js|cjs|json|md|yaml|yml|sh)$|^[A-Z]+$|^run$|^\.gitignore$/;

export interface Manifest {
  readonly name?: string;
  readonly private?: boolean;
  readonly scripts?: Readonly<Record<string, string>>;
  readonly exports?: Readonly<Record<string, unknown>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
}

export interface CompilerConfiguration {
  readonly compilerOptions?: { readonly types?: readonly string[]; readonly lib?: readonly string[] };
  readonly references?: readonly { readonly path: string }[];
}

export interface WorkspacePackage {
  /** From the root, with `/`: such as `packages/base`. */
  readonly folder: string;
  readonly name: string;
  readonly manifest: Manifest;
  readonly compiler: CompilerConfiguration;
}

/** By path from the root, with `/`. */
export type Files = ReadonlyMap<string, string>;

export interface Workspace {
  readonly files: Files;
  readonly packages: readonly WorkspacePackage[];
}

/** The workspace of these files. */
function workspaceOf(files: Files): Workspace {
  const packages = [...files.keys()].flatMap((path) => {
    const folder = /^(.+)\/package\.json$/.exec(path)?.[1];
    if (folder === undefined) return [];
    const manifest = json<Manifest>(files, path);
    const compiler = json<CompilerConfiguration>(files, `${folder}/tsconfig.json`);
    return [{ folder, name: manifest.name ?? folder, manifest, compiler }];
  });
  return { files, packages };
}

/** Reads the repository at `root`. */
export function readWorkspace(root: string): Workspace {
  const files = new Map<string, string>();
  const visit = (folder: string): void => {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      if (GENERATED.has(entry.name)) continue;
      const path = folder === "" ? entry.name : `${folder}/${entry.name}`;
      if (entry.isDirectory()) visit(path);
      else if (entry.isFile() && TEXT_FILE.test(entry.name)) files.set(path, readFileSync(join(root, path), "utf8"));
    }
  };
  visit("");
  return workspaceOf(files);
}

/** The same workspace with some files changed or, where the text is undefined, gone. */
export function withFiles({ files }: Workspace, changes: Readonly<Record<string, string | undefined>>): Workspace {
  const changed = new Map(files);
  for (const [path, text] of Object.entries(changes))
    if (text === undefined) changed.delete(path);
    else changed.set(path, text);
  return workspaceOf(changed);
}

/** The parsed JSON of a file; an empty record when there is no such file. */
export function json<T extends object>(files: Files, path: string): T {
  return JSON.parse(files.get(path) ?? "{}") as T;
}

/** The package that a file belongs to: the deepest folder with a manifest. */
export function packageOf({ packages }: Workspace, path: string): WorkspacePackage | undefined {
  return packages
    .filter(({ folder }) => path.startsWith(`${folder}/`))
    .sort((a, b) => b.folder.length - a.folder.length)[0];
}
