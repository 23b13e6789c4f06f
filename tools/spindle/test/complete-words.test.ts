/** What shells are offered for the word that is being typed. */
import { expect, test } from "vitest";
import { COMMANDS } from "../src/command-table.ts";
import { completeWords } from "../src/completion/complete-words.ts";

async function candidates(...words: string[]): Promise<string[]> {
  return (await completeWords(COMMANDS, words)).map(({ word }) => word);
}

test("offers commands, their options, and the words that an option takes", async () => {
  expect(await candidates("com")).toEqual(["compare", "commit", "completion"]);
  expect(await candidates("help", "che")).toEqual(["check"]);
  expect(await candidates("create", "--backing")).toEqual(["--backing", "--backing-format", "--backing-unsafe"]);
  expect(await candidates("create", "-f", "qc")).toEqual(["qcow2"]);
  expect(await candidates("info", "--output", "")).toEqual(["human", "json"]);
  expect(await candidates("info", "--output=j")).toEqual(["--output=json"]);
  expect(await candidates("convert", "-t", "write")).toEqual(["writeback", "writethrough"]);
  expect(await candidates("completion", "")).toEqual(["bash", "fish", "zsh"]);
});

test("offers an option that was given once more only where it may come several times", async () => {
  expect(await candidates("info", "-f", "raw", "--form")).toEqual([]);
  expect(await candidates("info", "--format=raw", "--form")).toEqual([]);
  expect(await candidates("create", "-o", "size=1", "--opt")).toEqual(["--options"]);
});

test("leaves names of files, and what it does not know, to the shell", async () => {
  expect(await candidates("info", "")).toEqual([]);
  expect(await candidates("create", "-b", "")).toEqual([]);
  expect(await candidates("nonsense", "")).toEqual([]);
  expect(await candidates("info", "--nonsense=")).toEqual([]);
  expect(await candidates("info", "--", "--")).toEqual([]);
});
