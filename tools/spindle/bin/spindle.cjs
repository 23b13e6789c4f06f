#!/usr/bin/env node
// The bundle starts sooner than the files that it was made of.
const { existsSync } = require("node:fs");
const { join } = require("node:path");

if (existsSync(join(__dirname, "../bundle/main.cjs"))) require("./bundle-loader.cjs").requireBundled("./main.cjs");
else void import("../dist/main.js");
