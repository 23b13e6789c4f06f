/** Short options of a command of the shell, read as the C library's `getopt` does: operands may stand between them. */

export interface Getopt {
  /** Letters in the order in which they stand, with the value where the option takes one. */
  readonly options: readonly (readonly [letter: string, value: string])[];
  readonly operands: readonly string[];
  /** What is wrong, in the C library's words; the command then shows its usage. */
  readonly fault?: string;
}

/** @param letters the letters of the options; a colon stands behind those that take a value */
export function getopt([command = "", ...words]: readonly string[], letters: string): Getopt {
  const options: (readonly [string, string])[] = [];
  const operands: string[] = [];
  for (let index = 0; index < words.length; index++) {
    const word = words[index] as string;
    if (word === "--") return { options, operands: [...operands, ...words.slice(index + 1)] };
    if (!word.startsWith("-") || word === "-") {
      operands.push(word);
      continue;
    }
    const cluster = splitCluster(word.slice(1), letters);
    options.push(...cluster.options);
    const { open, unknown } = cluster;
    if (unknown !== undefined) return { options, operands, fault: `${command}: invalid option -- '${unknown}'` };
    if (open === undefined) continue;
    index += 1;
    const value = words[index];
    if (value === undefined)
      return { options, operands, fault: `${command}: option requires an argument -- '${open}'` };
    options.push([open, value]);
  }
  return { options, operands };
}

interface Cluster {
  readonly options: readonly (readonly [string, string])[];
  /** The last letter, when the next word is its value. */
  readonly open?: string;
  readonly unknown?: string;
}

/** Letters behind one dash; behind one that takes a value stands the value. */
function splitCluster(cluster: string, letters: string): Cluster {
  const options: (readonly [string, string])[] = [];
  for (let at = 0; at < cluster.length; at++) {
    const letter = cluster[at] as string;
    const known = letter === ":" ? -1 : letters.indexOf(letter);
    if (known < 0) return { options, unknown: letter };
    if (letters[known + 1] !== ":") {
      options.push([letter, ""]);
      continue;
    }
    const value = cluster.slice(at + 1);
    if (value === "") return { options, open: letter };
    return { options: [...options, [letter, value]] };
  }
  return { options };
}
