/**
 * Bundles the program, because short commands take as long as their files take to be found: one file for what all commands
 * need, and one for each command. What starts threads stays where the threads' own entries are.
 */

export default {
  resolve: { conditions: ["spindle-source"] },
  ssr: {
    noExternal: true,
    external: ["koffi", "@spindle/streaming", "@spindle/vhost-user"],
    resolve: { conditions: ["spindle-source", "node", "import", "module", "default"] },
  },
  build: {
    ssr: true,
    target: "node20",
    outDir: "bundle",
    emptyOutDir: true,
    minify: false,
    rolldownOptions: {
      input: { main: "src/main.ts" },
      output: { entryFileNames: "[name].js", chunkFileNames: "[name]-[hash].js" },
    },
  },
};
