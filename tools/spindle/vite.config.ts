/**
 * Bundles the program, because short commands take as long as their files take to be found: one file for what most
 * commands need, and one for each command and each kind of thread. The bundle is CommonJS: to import one of Node's modules
 * is to look at each of its properties, behind some of which stands half of Node.
 */

import { execFileSync } from "node:child_process";
import { copyFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

/** Modules that so many commands and threads need are in the file that all of them load. */
const SHARED_BY = 6;

/** Takes Node's modules as they are; rolldown's copies for `import *` look at every property, too. */
const plainBuiltins = {
  name: "plain-builtins",
  renderChunk: (code: string): string => code.replaceAll(/^(node_\w+) = \S*__toESM\(\1(, 1)?\);\n/gm, ""),
};

/** Text of one byte a character is half as long in memory, and its code is found sooner. */
const plainText = {
  name: "plain-text",
  renderChunk: (code: string): string =>
    code.replaceAll(/[^\0-\x7f]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`),
};

/** What is of use to the Node and the host that build: koffi's binary, for which nobody has to search here, and compiled code. */
const ofThisHost = {
  name: "of-this-host",
  writeBundle({ dir }: { dir: string }): void {
    const koffi = koffiBinary();
    if (koffi !== undefined) copyFileSync(koffi, join(dir, "koffi.node"));
    execFileSync(process.execPath, [join(import.meta.dirname, "compile-bundle.cjs")], {
      stdio: ["ignore", "ignore", "inherit"],
    });
  },
};

function koffiBinary(): string | undefined {
  const { platform, arch } = process;
  try {
    const koffi = createRequire(createRequire(import.meta.url).resolve("koffi"));
    return koffi.resolve(`@koromix/koffi-${platform}-${arch}/${platform}_${arch}/koffi.node`);
  } catch {
    return undefined;
  }
}

export default {
  resolve: { conditions: ["spindle-source"] },
  ssr: {
    noExternal: true,
    external: ["koffi", "fzstd", "piscina"],
    resolve: { conditions: ["spindle-source", "node", "import", "module", "default"] },
  },
  build: {
    ssr: true,
    target: "node20",
    outDir: "bundle",
    emptyOutDir: true,
    minify: false,
    rolldownOptions: {
      input: {
        main: "src/main.ts",
        "copy-worker": "../../packages/streaming/src/copy-worker.ts",
        "compress-worker": "../../packages/streaming/src/compress-worker.ts",
        "protocol-thread": "../../packages/vhost-user/src/protocol-thread.ts",
        "queue-thread": "../../packages/vhost-user/src/queue-thread.ts",
      },
      plugins: [plainBuiltins, plainText, ofThisHost],
      output: {
        format: "cjs",
        comments: false,
        // The program's own file is loaded so already.
        intro: ({ isEntry, name }) =>
          isEntry && name !== "main" ? 'require = require("../bin/bundle-loader.cjs").requireBundled;' : "",
        entryFileNames: "[name].cjs",
        chunkFileNames: "[name]-[hash].cjs",
        codeSplitting: { groups: [{ name: "shared", minShareCount: SHARED_BY }] },
      },
    },
  },
};
