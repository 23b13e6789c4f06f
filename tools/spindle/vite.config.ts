/**
 * Bundles the program, because short commands take as long as their files take to be found: one file for what most
 * commands need, and one for each command and each kind of thread. The bundle is CommonJS: to import one of Node's modules
 * is to look at each of its properties, behind some of which stands half of Node.
 */

/** Modules that so many commands and threads need are in the file that all of them load. */
const SHARED_BY = 6;

/** Takes Node's modules as they are; rolldown's copies for `import *` look at every property, too. */
const plainBuiltins = {
  name: "plain-builtins",
  renderChunk: (code: string): string => code.replaceAll(/^(node_\w+) = \S*__toESM\(\1(, 1)?\);\n/gm, ""),
};

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
      plugins: [plainBuiltins],
      output: {
        format: "cjs",
        entryFileNames: "[name].cjs",
        chunkFileNames: "[name]-[hash].cjs",
        codeSplitting: { groups: [{ name: "shared", minShareCount: SHARED_BY }] },
      },
    },
  },
};
