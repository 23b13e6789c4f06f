/**
 * Turns the production source of the lock into generators that stop before every operation that other threads can see.
 * What is explored is the source itself, not a model of it: types are stripped, every `Atomics.x(...)` becomes
 * `(yield ["x", ...])`, every function that contains one becomes a generator, and calls of it become `(yield f(...))`:
 * whoever drives the code runs the inner generator and hands its result back.
 */
import { readFileSync } from "node:fs";
import * as nodeModule from "node:module";

// Node 24 has it; the type declarations are those of the oldest Node that the packages support.
const { stripTypeScriptTypes } = nodeModule as unknown as { stripTypeScriptTypes(source: string): string };

/** A textual change of the source: a deliberate mistake, or a limit made small. It has to apply. */
export interface Edit {
  readonly from: string;
  readonly to: string;
}

const SOURCE = new URL("../../src/", import.meta.url);

/** Reads files of `src`, joins them into one text without types, comments, imports and exports, and edits it. */
export function readSource(files: readonly string[], edits: readonly Edit[]): string {
  let text = files.map((file) => withoutComments(stripped(readFileSync(new URL(file, SOURCE), "utf8")))).join("\n");
  for (const { from, to } of edits) {
    if (text.split(from).length !== 2) throw new Error(`the edit does not apply exactly once: ${from}`);
    text = text.replace(from, () => to);
  }
  return text;
}

/** Makes the text stop before every visible operation. `steps` are calls that are one step each, such as `.ring(`. */
export function intoSteps(text: string, steps: Readonly<Record<string, string>>): string {
  const conditions: string[] = [];
  // What a runner asks for readiness is looked at in one step: these lines stay as they are.
  let code = text.replace(/^.*kind: "condition".*$/gm, (line) => `/*condition ${conditions.push(line) - 1}*/`);
  for (const [call, name] of Object.entries(steps))
    code = replaceCalls(code, call, (args) => `(yield ["${name}", ${args}])`);
  const functions = findFunctions(code);
  const stopping = functionsThatStop(functions);
  code = replaceCalls(code, /(?<!\w)Atomics\.(\w+)\(/g, (args, match) => `(yield ["${match[1]}", ${args}])`);
  code = code.replace(/^( {2}(?:static )?)(#?\w+)(\([^\n]*\{)$/gm, (line, indent, name, rest) =>
    stopping.has(name) ? `${indent}*${name}${rest}` : line,
  );
  code = code.replace(/^function (\w+)\(/gm, (line, name) => (stopping.has(name) ? `function* ${name}(` : line));
  code = code.replace(/yield\* this\./g, "this.");
  code = replaceCalls(code, /(?<![\w.#])((?:this|[a-z]\w*)(?:\.#?\w+)*\.)(#?\w+)\(/g, (args, match) =>
    stopping.has(match[2] as string) ? `(yield ${match[0]}${args}))` : undefined,
  );
  // Nothing is carried from one round of these loops to the next: what was seen before the round no longer counts.
  code = code
    .replace(/for \(;;\) \{/g, "for (;;) { fresh();")
    .replace(/while \(!\(yield/g, "while (fresh() && !(yield");
  return code.replace(/\/\*condition (\d+)\*\//g, (_, index) => conditions[Number(index)] as string);
}

/** Runs a text of classes and functions and gives what `names` name. */
export function evaluate(
  code: string,
  names: readonly string[],
  globals: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const make = new Function(...Object.keys(globals), `"use strict";${code}\nreturn { ${names.join(", ")} };`);
  return make(...Object.values(globals)) as Record<string, unknown>;
}

function stripped(source: string): string {
  return stripTypeScriptTypes(source)
    .replace(/^import [^;]*;$/gm, "")
    .replace(/^export /gm, "");
}

function withoutComments(text: string): string {
  return text
    .replace(/\/\*[\s\S]*?\*\//g, "")
    .replace(/^\s*\/\/.*$/gm, "")
    .replace(/[ \t]+/g, (space, offset: number, whole: string) => (whole[offset - 1] === "\n" ? space : " "))
    .replace(/ ([;,)])/g, "$1")
    .replace(/[ \t]+$/gm, "")
    .replace(/\n+/g, "\n");
}

/** Bodies of methods (two spaces in) and functions, by name. Names are unique among those that stop. */
function findFunctions(code: string): Map<string, string> {
  const functions = new Map<string, string>();
  for (const match of code.matchAll(/^(?: {2}(?:static )?\*?(#?\w+)|function\*? (\w+))\(.*\{$/gm)) {
    const open = match.index + match[0].length - 1;
    const name = (match[1] ?? match[2]) as string;
    functions.set(name, `${functions.get(name) ?? ""}${code.slice(open, closing(code, open, "{", "}"))}`);
  }
  return functions;
}

function functionsThatStop(functions: ReadonlyMap<string, string>): Set<string> {
  const stopping = new Set<string>();
  for (let before = -1; before !== stopping.size; ) {
    before = stopping.size;
    for (const [name, body] of functions) {
      const stops =
        body.includes("Atomics.") ||
        body.includes("(yield [") ||
        [...body.matchAll(/\.(#?\w+)\(/g)].some((call) => stopping.has(call[1] as string));
      if (stops) stopping.add(name);
    }
  }
  return stopping;
}

/** Replaces calls whose text up to the parenthesis matches; nested calls are replaced from the left and then inside. */
function replaceCalls(
  code: string,
  pattern: RegExp | string,
  replacement: (args: string, match: RegExpExecArray) => string | undefined,
): string {
  const regular =
    typeof pattern === "string" ? new RegExp(pattern.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "g") : pattern;
  let result = code;
  regular.lastIndex = 0;
  for (let match = regular.exec(result); match !== null; match = regular.exec(result)) {
    const open = match.index + match[0].length - 1;
    const end = closing(result, open, "(", ")");
    const text = replacement(result.slice(open + 1, end), match);
    if (text === undefined) continue;
    result = result.slice(0, match.index) + text + result.slice(end + 1);
    // The arguments may hold further calls; the replaced name itself does not match again.
    regular.lastIndex = match.index + skipped(text);
  }
  return result;
}

/** Behind what a replacement put before the arguments. */
function skipped(text: string): number {
  return text.startsWith("(yield [") ? text.indexOf("[") + 1 : text.indexOf("(", 1) + 1;
}

function closing(code: string, open: number, left: string, right: string): number {
  let depth = 0;
  for (let index = open; index < code.length; index++) {
    if (code[index] === left) depth += 1;
    else if (code[index] === right && --depth === 0) return index;
  }
  throw new Error(`no closing ${right}`);
}
