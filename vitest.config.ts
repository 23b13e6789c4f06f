import { defineConfig } from "vitest/config";

// Tests, and the workers they start, run from the TypeScript sources: no build comes first.
export default defineConfig({
  resolve: { conditions: ["spindle-source"] },
  ssr: { resolve: { conditions: ["spindle-source", "node", "import", "module", "default"] } },
  test: {
    include: [
      "packages/*/test/**/*.test.ts",
      "tools/*/test/**/*.test.ts",
      "test/**/*.test.ts",
      "bench/test/**/*.test.ts",
    ],
    execArgv: ["--conditions=spindle-source", "--disable-warning=ExperimentalWarning"],
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});
