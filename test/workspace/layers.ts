/** Which way the packages depend: the one table, and the checks that hold manifests, references and imports to it. */
import { posix } from "node:path";
import { packageOf, type Workspace, type WorkspacePackage } from "./workspace.ts";

interface Layer {
  /** Workspace packages that its sources may import. */
  readonly imports: readonly string[];
  /** Named by no environment: compiled without Node's and the browser's types. */
  readonly pure: boolean;
  /** Packages from outside that it alone may import. */
  readonly external?: readonly string[];
}

const FOUNDATION = ["@spindle/base", "@spindle/shared-memory"];
const BLOCK = [...FOUNDATION, "@spindle/block"];
const LIBRARY = [...BLOCK, "@spindle/formats", "@spindle/jobs", "@spindle/host-node", "@spindle/streaming"];
const EVERYTHING = [
  ...LIBRARY,
  "@spindle/virtio-blk",
  "@spindle/vhost-user",
  "@spindle/monitor",
  "@spindle/workload",
  "spindle",
];
const TESTS = [...EVERYTHING, "@spindle/testkit", "@spindle/tools"];

const LAYERS: Readonly<Record<string, Layer>> = {
  "@spindle/base": { imports: [], pure: true },
  "@spindle/shared-memory": { imports: ["@spindle/base"], pure: true },
  "@spindle/block": { imports: FOUNDATION, pure: true },
  "@spindle/formats": { imports: BLOCK, pure: true },
  "@spindle/jobs": { imports: BLOCK, pure: true },
  "@spindle/virtio-blk": { imports: BLOCK, pure: true },
  "@spindle/monitor": { imports: [...BLOCK, "@spindle/jobs"], pure: true },
  "@spindle/workload": { imports: BLOCK, pure: true },
  "@spindle/testkit": {
    imports: [...BLOCK, "@spindle/formats", "@spindle/jobs"],
    pure: false,
    external: ["vitest"],
  },
  "@spindle/host-node": { imports: BLOCK, pure: false, external: ["koffi", "fzstd"] },
  "@spindle/streaming": {
    imports: [...BLOCK, "@spindle/formats", "@spindle/jobs", "@spindle/host-node"],
    pure: false,
    external: ["piscina", "comlink"],
  },
  "@spindle/vhost-user": { imports: [...BLOCK, "@spindle/virtio-blk", "@spindle/host-node"], pure: false },
  spindle: { imports: LIBRARY, pure: false },
  "@spindle/tools": { imports: EVERYTHING, pure: false, external: ["comlink"] },
  "@spindle/test": { imports: TESTS, pure: false },
  "@spindle/bench": { imports: TESTS, pure: false },
};

const IMPORT =
  /^\s*(?:import|export)\b[^"'`;]*?\bfrom\s*["']([^"']+)["']|^\s*import\s*["']([^"']+)["']|\bimport(?:\.meta\.resolve)?\(\s*["']([^"']+)["']/gm;

interface Import {
  readonly path: string;
  readonly specifier: string;
  readonly owner: WorkspacePackage;
}

/** Every package has a layer, and every layer a package. */
export function checkEveryPackageHasALayer({ packages }: Workspace): string[] {
  const names = packages.map(({ name }) => name);
  const homeless = names.filter((name) => LAYERS[name] === undefined).map((name) => `${name} has no layer`);
  const empty = Object.keys(LAYERS).filter((name) => !names.includes(name));
  return [...homeless, ...empty.map((name) => `the layer of ${name} has no package`)];
}

/** Sources import only what their layer allows; only tests import the testkit. */
export function checkDirection(workspace: Workspace): string[] {
  const names = new Set(workspace.packages.map(({ name }) => name));
  return importsOf(workspace).flatMap(({ path, specifier, owner }) => {
    const target = packageName(specifier);
    const layer = LAYERS[owner.name];
    if (layer === undefined || target === undefined || target === owner.name || isTest(path)) return [];
    if (target.startsWith("node:")) return layer.pure ? [`${path} is pure and imports ${target}`] : [];
    const allowed = names.has(target) ? layer.imports : layer.external;
    const free = !names.has(target) && (owner.name === "@spindle/bench" || owner.name === "@spindle/test");
    return free || allowed?.includes(target) ? [] : [`${path} may not import ${target}`];
  });
}

/** A manifest's dependencies are those that the layer allows. */
export function checkManifests({ packages }: Workspace): string[] {
  const names = new Set(packages.map(({ name }) => name));
  return packages.flatMap(({ name, manifest }) =>
    Object.keys(manifest.dependencies ?? {})
      .filter((dependency) => names.has(dependency) && !LAYERS[name]?.imports.includes(dependency))
      .map((dependency) => `${name} may not depend on ${dependency}`),
  );
}

/** What a file imports is declared in its package's manifest; what a source imports, not only for development. */
export function checkDeclared(workspace: Workspace): string[] {
  return importsOf(workspace).flatMap(({ path, specifier, owner: { manifest, name } }) => {
    const target = packageName(specifier);
    if (target === undefined || target.startsWith("node:") || target === name) return [];
    const shipped = { ...manifest.dependencies, ...manifest.optionalDependencies };
    const inSource = path.includes("/src/") && manifest.private !== true;
    // The test runner is installed once, at the root.
    const declared = inSource ? shipped : { ...shipped, ...manifest.devDependencies, vitest: "" };
    return target in declared ? [] : [`${path} imports ${target}, which ${name} does not declare`];
  });
}

/** A package's references in tsconfig.json are its dependencies, and the root refers to every package that compiles. */
export function checkReferences({ files, packages }: Workspace): string[] {
  const byName = new Map(packages.map((one) => [one.name, one]));
  const compiled = packages.filter(({ name }) => name !== "@spindle/test" && name !== "@spindle/bench");
  const root = JSON.parse(files.get("tsconfig.json") ?? "{}") as WorkspacePackage["compiler"];
  const differences = compiled.map(({ folder, name, manifest, compiler }) => {
    const expected = Object.keys(manifest.dependencies ?? {}).flatMap((one) => byName.get(one)?.folder ?? []);
    const found = (compiler.references ?? []).map(({ path }) => posix.join(folder, path));
    return difference(`the references of ${name}`, expected, found);
  });
  const all = compiled.map(({ folder }) => folder);
  return [
    ...differences.flat(),
    ...difference(
      "the root's references",
      all,
      (root.references ?? []).map((one) => one.path),
    ),
  ];
}

/** Nobody reaches into another package: only what `exports` names, and no relative path out of one's own folder. */
export function checkNoDeepImports(workspace: Workspace): string[] {
  const byName = new Map(workspace.packages.map((one) => [one.name, one]));
  return importsOf(workspace).flatMap(({ path, specifier, owner }) => {
    if (specifier.startsWith(".")) {
      const target = posix.join(posix.dirname(path), specifier);
      return target.startsWith(`${owner.folder}/`) ? [] : [`${path} imports ${specifier}, outside its package`];
    }
    const target = byName.get(packageName(specifier) ?? "");
    if (target === undefined) return [];
    const entry = `.${specifier.slice(target.name.length)}`;
    return entry in (target.manifest.exports ?? {}) ? [] : [`${path} imports ${specifier}, which is not exported`];
  });
}

/** Pure packages are compiled without the types of any environment. */
export function checkPureTypes({ files, packages }: Workspace): string[] {
  const base = JSON.parse(files.get("tsconfig.base.json") ?? "{}") as WorkspacePackage["compiler"];
  const pure = packages.filter(({ name }) => LAYERS[name]?.pure === true);
  return pure.flatMap(({ name, compiler }) => {
    const types = compiler.compilerOptions?.types ?? base.compilerOptions?.types;
    const lib = compiler.compilerOptions?.lib ?? base.compilerOptions?.lib ?? ["dom"];
    const clean = types?.length === 0 && !lib.some((one) => /^(dom|webworker)/i.test(one));
    return clean ? [] : [`${name} is pure, but is compiled with types or libraries of an environment`];
  });
}

function importsOf(workspace: Workspace): Import[] {
  return [...workspace.files].flatMap(([path, text]) => {
    const owner = packageOf(workspace, path);
    if (owner === undefined || !/\.(ts|js)$/.test(path)) return [];
    return [...text.matchAll(IMPORT)].map((match) => ({
      path,
      owner,
      specifier: match[1] ?? match[2] ?? match[3] ?? "",
    }));
  });
}

function isTest(path: string): boolean {
  return /(^|\/)test\//.test(path);
}

/** `@spindle/base` for `@spindle/base/x`; undefined for a relative path. */
function packageName(specifier: string): string | undefined {
  if (specifier.startsWith(".")) return undefined;
  return specifier.startsWith("node:") ? specifier : specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/");
}

function difference(what: string, expected: readonly string[], found: readonly string[]): string[] {
  return [
    ...expected.filter((one) => !found.includes(one)).map((one) => `${what} lack ${one}`),
    ...found.filter((one) => !expected.includes(one)).map((one) => `${what} name ${one}, which is no dependency`),
  ];
}
