#!/usr/bin/env node
// The bundle starts sooner than the files that it was made of. Code that was compiled once is kept for the next call, and
// for threads, where Node can do that (22.8 and newer).
const { existsSync } = require("node:fs");
const { join } = require("node:path");
const { enableCompileCache } = require("node:module");

const cache = enableCompileCache?.().directory;
if (cache !== undefined) process.env.NODE_COMPILE_CACHE ??= cache;
const bundle = join(__dirname, "../bundle/main.cjs");
if (existsSync(bundle)) require(bundle);
else void import("../dist/main.js");
