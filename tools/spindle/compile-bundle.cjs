/**
 * Compiles the bundle for the Node that runs this (see bin/bundle-loader.cjs): the functions that a few common commands call,
 * and all functions of the files that those do not load, which are other commands and threads.
 */
"use strict";
const { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } = require("node:fs");
const { tmpdir } = require("node:os");
const { join } = require("node:path");
const { setFlagsFromString } = require("node:v8");
const { Script } = require("node:vm");
const { bundle, compiled, loader } = require("./bin/bundle-loader.cjs");

const scratch = mkdtempSync(join(tmpdir(), "spindle-build-"));
const raw = join(scratch, "disk.raw");
const qcow2 = join(scratch, "disk.qcow2");
const commands = [
  ["create", "-q", "-f", "qcow2", qcow2, "1M"],
  ["io", "-c", "write -q 64k 64k", qcow2],
  ["info", qcow2],
  ["check", "-q", qcow2],
  ["map", qcow2],
  ["convert", "-O", "raw", qcow2, raw],
  ["convert", "-O", "qcow2", raw, qcow2],
  ["convert", "-c", "-O", "qcow2", raw, qcow2],
  ["compare", "-q", raw, qcow2],
];
const scripts = new Map();

function sourceOf(id) {
  const code = readFileSync(join(bundle, id), "latin1");
  return `(function (exports, require, module, __filename, __dirname) {${code}\n})`;
}

function scriptOf(id) {
  const script = scripts.get(id) ?? new Script(sourceOf(id), { filename: join(bundle, id) });
  scripts.set(id, script);
  return script;
}

/** Runs the next command when nothing of the last one goes on any more. */
function runNext() {
  const words = commands.shift();
  if (words === undefined) return;
  process.argv = [process.execPath, "spindle", ...words];
  loader(scriptOf)("./main.cjs");
}

/** V8 takes compiled code only where its options are those that it was written with. */
function compileRest() {
  setFlagsFromString("--no-lazy");
  for (const name of readdirSync(bundle)) if (name.endsWith(".cjs")) scriptOf(`./${name}`);
  setFlagsFromString("--lazy");
}

process.on("beforeExit", runNext);
process.on("exit", (code) => {
  rmSync(scratch, { recursive: true });
  if (code !== 0) return;
  compileRest();
  // All of it is there or nothing.
  const unfinished = `${compiled}.new`;
  mkdirSync(unfinished, { recursive: true });
  for (const [id, script] of scripts) {
    writeFileSync(join(unfinished, id), sourceOf(id), "latin1");
    writeFileSync(join(unfinished, `${id}.code`), script.createCachedData());
  }
  renameSync(unfinished, compiled);
});
