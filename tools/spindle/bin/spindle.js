#!/usr/bin/env node
// The bundle starts sooner than the files that it was made of. Code that was compiled once is kept for the next call, where
// Node can do that (22.8 and newer).
import { existsSync } from "node:fs";
import module from "node:module";

module.enableCompileCache?.();
const bundle = new URL("../bundle/main.js", import.meta.url);
await import(existsSync(bundle) ? bundle.href : "../dist/main.js");
