/**
 * Loads the files of the bundle, with their code as the build has compiled it (compile-bundle.cjs). Node's own loader looks
 * for each file that this one knows to be there, and its compile cache knows of a file no more than what runs while it is
 * loaded: the functions would be compiled again in every process and every thread. V8 refuses what another version of it has
 * compiled, or the same with other options, and compiles as always then.
 */
"use strict";
const { existsSync, readFileSync } = require("node:fs");
const { join } = require("node:path");
const { Script } = require("node:vm");

const bundle = join(__dirname, "../bundle");
/** Where the compiled code for this Node stands. */
const compiled = join(bundle, "compiled", `${process.version}-${process.arch}`);

function compiledScript(id) {
  const cachedData = readFileSync(join(compiled, `${id}.code`));
  return new Script(readFileSync(join(compiled, id), "latin1"), { filename: join(bundle, id), cachedData });
}

/**
 * @param scriptOf gives a file's script: a function with the parameters that CommonJS modules have
 * @returns what the files have for `require`
 */
function loader(scriptOf) {
  const loaded = new Map();
  return function requireBundled(id) {
    if (!id.startsWith("./")) return require(id);
    const known = loaded.get(id);
    if (known !== undefined) return known.exports;
    const module = { exports: {} };
    loaded.set(id, module);
    const run = scriptOf(id).runInThisContext();
    run.call(module.exports, module.exports, requireBundled, module, join(bundle, id), bundle);
    return module.exports;
  };
}

/** Where nothing is compiled, Node keeps for the next call what it can, from 22.8 on. */
function nodeLoader() {
  const cache = require("node:module").enableCompileCache?.().directory;
  if (cache !== undefined) process.env.NODE_COMPILE_CACHE ??= cache;
  return (id) => require(id.startsWith("./") ? join(bundle, id) : id);
}

const requireBundled = existsSync(compiled) ? loader(compiledScript) : nodeLoader();

module.exports = { bundle, compiled, compiledScript, loader, requireBundled };
