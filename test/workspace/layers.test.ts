/** The rules of the repository, each with a case that shows that it can fail. */
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import {
  checkDeclared,
  checkDirection,
  checkEveryPackageHasALayer,
  checkManifests,
  checkNoDeepImports,
  checkPureTypes,
  checkReferences,
} from "./layers.ts";
import {
  checkFileNames,
  checkFileSizes,
  checkMachinePaths,
  checkNamedPaths,
  checkNativePackages,
  checkScripts,
  checkVersions,
  FILE_LINES_MAX,
} from "./tidiness.ts";
import { readWorkspace, type Workspace, withFiles } from "./workspace.ts";

interface Rule {
  readonly promise: string;
  readonly check: (workspace: Workspace) => string[];
  /** Changes to the repository that break the rule, and what is said of them. */
  readonly violations: readonly {
    readonly files: Readonly<Record<string, string | undefined>>;
    readonly complaint: RegExp;
  }[];
}

const repository = readWorkspace(fileURLToPath(new URL("../..", import.meta.url)));

/** A file of the repository with one piece of its text replaced. */
function edited(path: string, from: string | RegExp, to: string): Record<string, string> {
  const text = repository.files.get(path) ?? "";
  const changed = text.replace(from, to);
  if (changed === text) throw new Error(`${path} does not hold ${from}`);
  return { [path]: changed };
}

const importing = (specifier: string) => `import { x } from "${specifier}";\n`;

const RULES: readonly Rule[] = [
  {
    promise: "every package has its layer",
    check: checkEveryPackageHasALayer,
    violations: [
      {
        files: { "packages/extra/package.json": '{"name":"@spindle/extra"}' },
        complaint: /@spindle\/extra has no layer/,
      },
      { files: { "packages/jobs/package.json": undefined }, complaint: /the layer of @spindle\/jobs has no package/ },
    ],
  },
  {
    promise: "imports point one way",
    check: checkDirection,
    violations: [
      {
        files: { "packages/base/src/up.ts": importing("@spindle/block") },
        complaint: /up\.ts may not import @spindle\/block/,
      },
      { files: { "packages/jobs/src/up.ts": importing("node:fs") }, complaint: /is pure and imports node:fs/ },
      {
        files: { "packages/jobs/src/up.ts": `const x = await ${"import"}("piscina");` },
        complaint: /may not import piscina/,
      },
      {
        files: { "packages/spindle/src/up.ts": importing("@spindle/testkit") },
        complaint: /may not import @spindle\/testkit/,
      },
      {
        files: { "packages/base/src/up.ts": 'export {\n  a,\n  type B,\n} from "@spindle/formats";\n' },
        complaint: /may not import @spindle\/formats/,
      },
    ],
  },
  {
    promise: "manifests depend one way",
    check: checkManifests,
    violations: [
      {
        files: edited("packages/block/package.json", '"@spindle/base"', '"@spindle/formats"'),
        complaint: /@spindle\/block may not depend on @spindle\/formats/,
      },
    ],
  },
  {
    promise: "what is imported is declared",
    check: checkDeclared,
    violations: [
      {
        files: { "packages/base/src/up.ts": importing("koffi") },
        complaint: /imports koffi, which @spindle\/base does not/,
      },
      { files: { "packages/spindle/src/up.ts": importing("@spindle/testkit") }, complaint: /does not declare/ },
    ],
  },
  {
    promise: "compiler references are the workspace dependencies",
    check: checkReferences,
    violations: [
      {
        files: { "packages/block/tsconfig.json": "{}" },
        complaint: /references of @spindle\/block lack packages\/base/,
      },
      {
        files: { "packages/base/tsconfig.json": '{"references":[{"path":"../block"}]}' },
        complaint: /references of @spindle\/base name packages\/block/,
      },
      { files: { "tsconfig.json": '{"references":[]}' }, complaint: /the root's references lack packages\/base/ },
    ],
  },
  {
    promise: "nobody reaches into another package",
    check: checkNoDeepImports,
    violations: [
      { files: { "test/deep.ts": importing("@spindle/base/src/errors.ts") }, complaint: /which is not exported/ },
      { files: { "packages/block/src/a.ts": importing("../../base/src/errors.ts") }, complaint: /outside its package/ },
    ],
  },
  {
    promise: "pure packages know no environment",
    check: checkPureTypes,
    violations: [
      {
        files: { "packages/jobs/tsconfig.json": '{"compilerOptions":{"types":["node"]}}' },
        complaint: /@spindle\/jobs is pure/,
      },
      {
        files: { "packages/jobs/tsconfig.json": '{"compilerOptions":{"lib":["es2023","dom"]}}' },
        complaint: /@spindle\/jobs is pure/,
      },
    ],
  },
  {
    promise: "files are named for what they hold",
    check: checkFileNames,
    violations: [
      { files: { "packages/base/src/utils.ts": "" }, complaint: /says nothing of what it holds/ },
      { files: { "packages/base/src/ByteView.ts": "" }, complaint: /is not named in kebab-case/ },
    ],
  },
  {
    promise: "files can be read in one sitting",
    check: checkFileSizes,
    violations: [
      { files: { "packages/base/src/long.ts": "\n".repeat(FILE_LINES_MAX + 1) }, complaint: /has 501 lines/ },
    ],
  },
  {
    promise: "pages name only what is there",
    check: checkNamedPaths,
    violations: [
      {
        files: { "README.md": "See `packages/base/src/nowhere.ts`." },
        complaint: /names packages\/base\/src\/nowhere\.ts/,
      },
      { files: { "README.md": "[the map](MAP.md)" }, complaint: /README\.md names MAP\.md/ },
      {
        files: { "packages/base/src/a.ts": `// see ${"docs"}/nowhere.md\n` },
        complaint: /a\.ts names docs\/nowhere\.md/,
      },
    ],
  },
  {
    promise: "no file names a path of one machine",
    check: checkMachinePaths,
    violations: [
      {
        files: { "README.md": `run ${["", "home", "ann", "spindle"].join("/")}` },
        complaint: /a path of one machine/,
      },
    ],
  },
  {
    promise: "the lockfile serves Linux, macOS and Windows",
    check: checkNativePackages,
    violations: [
      {
        files: edited("pnpm-lock.yaml", /@rolldown\/binding-darwin-/g, "@rolldown/binding-gone-"),
        complaint: /for darwin/,
      },
      { files: edited("pnpm-lock.yaml", /koffi-win32-/g, "koffi-gone-"), complaint: /lacks @koromix\/koffi for win32/ },
      { files: { "pnpm-lock.yaml": undefined }, complaint: /holds no native package/ },
    ],
  },
  {
    promise: "the commands that the pages promise are there",
    check: checkScripts,
    violations: [{ files: edited("package.json", '"start"', '"begin"'), complaint: /no script 'start'/ }],
  },
  {
    promise: "versions are exact",
    check: checkVersions,
    violations: [
      { files: edited("packages/testkit/package.json", '"workspace:*"', '"^0.1.0"'), complaint: /which is not exact/ },
      { files: edited("pnpm-workspace.yaml", "piscina: ", "piscina: ^"), complaint: /the catalog takes piscina/ },
    ],
  },
];

describe.each(RULES)("$promise", ({ check, violations }) => {
  test("holds", () => {
    expect(check(repository)).toEqual([]);
  });
  test.each(violations)("can fail: $complaint", ({ files, complaint }) => {
    const before = new Set(check(repository));
    const complaints = check(withFiles(repository, files)).filter((one) => !before.has(one));
    expect(complaints.join("\n")).toMatch(complaint);
  });
});
