/** Tables inside a written page: each stands between two comments that bear its name, and only it is replaced. */
import { readFileSync, writeFileSync } from "node:fs";

/** Replaces the blocks of a text; a block that the text has no place for is left out. */
export function replaceBlocks(text: string, blocks: ReadonlyMap<string, string>): string {
  let result = text;
  for (const [name, block] of blocks) {
    const begin = `<!-- bench: ${name} -->`;
    const end = `<!-- end: ${name} -->`;
    const from = result.indexOf(begin);
    const to = result.indexOf(end, from);
    if (from < 0 || to < 0) continue;
    result = `${result.slice(0, from)}${begin}\n${block}\n${result.slice(to)}`;
  }
  return result;
}

export function updateMarkdown(path: string, blocks: ReadonlyMap<string, string>): void {
  writeFileSync(path, replaceBlocks(readFileSync(path, "utf8"), blocks));
}
