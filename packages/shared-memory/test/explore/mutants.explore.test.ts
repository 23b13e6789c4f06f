import { describe, expect, it } from "vitest";
import { LockKind } from "../../src/index.ts";
import { explore } from "./explore.ts";
import { cancelable, named, type Program, use } from "./program.ts";
import type { Edit } from "./rewrite-source.ts";
import { build, type Limits } from "./stepped-lock.ts";

const { read, write, exclusiveWrite, copy, change } = LockKind;

const twoWriters = named([[use(exclusiveWrite, 0, 2)], [use(exclusiveWrite, 1, 3)]]);
const death = named([[use(exclusiveWrite, 0, 2)], [use(exclusiveWrite, 1, 3)]], { deaths: 1 });
const canceled = named([[use(exclusiveWrite, 0, 2)], [cancelable(exclusiveWrite, 1, 3)]]);
const oneSlot = named([[use(read, 0, 2)], [use(read, 1, 3)]], { slots: 1 });

/** A mistake, as a textual change of the source, and a program at which it has to show. */
interface Mutant {
  readonly mistake: string;
  readonly edits: readonly Edit[];
  readonly program: Program;
  readonly limits?: Limits;
}

function edit(from: string, to: string): Edit {
  return { from, to };
}

const MUTANTS: readonly Mutant[] = [
  {
    mistake: "a release that grants nothing",
    edits: [edit("this.regrant(kindOf(state), this.starts[slot], end);", "")],
    program: twoWriters,
  },
  {
    mistake: "a grant that rings nobody",
    edits: [edit("this.#ringThread(threadOf(state));", "")],
    program: twoWriters,
  },
  {
    mistake: "an unlock that does not look for a note",
    edits: [
      edit(
        "if (Atomics.compareExchange(this.#words, this.#word, this.#self, 0) === this.#self) return true;",
        "Atomics.store(this.#words, this.#word, 0); return true;",
      ),
    ],
    program: twoWriters,
  },
  {
    mistake: "a note that is taken away and not acted on",
    edits: [edit("while (!this.#mutex.unlock()) this.#collect();", "while (!this.#mutex.unlock());")],
    program: twoWriters,
  },
  {
    mistake: "a note left before what it refers to",
    edits: [
      edit("      Atomics.store(this.#table.states, slot, inPhase(state, Phase.released));\n", ""),
      edit(
        "      this.#settle();\n    }\n  }\n  ticket",
        "      this.#settle(); Atomics.store(this.#table.states, slot, inPhase(state, Phase.released));\n    }\n  }\n  ticket",
      ),
    ],
    program: twoWriters,
  },
  {
    mistake: "a note cleared after the look",
    edits: [
      edit("    Atomics.store(this.#words, this.#word, this.#self);\n    return false;", "    return false;"),
      edit(
        "while (!this.#mutex.unlock()) this.#collect();",
        "while (!this.#mutex.unlock()) { this.#collect(); this.#mutex.clear(); }",
      ),
      edit("  holder() {", "  clear() {\n    Atomics.store(this.#words, this.#word, this.#self);\n  }\n  holder() {"),
    ],
    program: named([[use(read, 0, 2)], [use(read, 0, 2)], [use(read, 0, 2)]]),
    limits: { patient: true },
  },
  {
    mistake: "a wish for the mutex that comes after the note",
    edits: [
      edit(
        "    this.#table.wantMutex(this.#thread.index);\n    return this.#mutex.lockOrNote();",
        "    const got = this.#mutex.lockOrNote();\n    this.#table.wantMutex(this.#thread.index);\n    return got;",
      ),
    ],
    program: twoWriters,
  },
  {
    mistake: "a doorbell's number that is taken after the attempt",
    edits: [
      edit("      const seen = thread.snapshot();\n", ""),
      edit(
        "      if (placed !== NONE) return placed;\n",
        "      if (placed !== NONE) return placed;\n      const seen = thread.snapshot();\n",
      ),
    ],
    program: twoWriters,
  },
  {
    mistake: "a kind missing in the table of compatibility",
    edits: [
      edit(
        "  WRITE | EXCLUSIVE_WRITE | COPY | CHANGE,\n  WRITE | EXCLUSIVE_WRITE | COPY | CHANGE,\n  READ",
        "  WRITE | EXCLUSIVE_WRITE | COPY | CHANGE,\n  WRITE | COPY | CHANGE,\n  READ",
      ),
    ],
    program: named([[use(exclusiveWrite, 0, 2)], [use(copy, 1, 3)]]),
  },
  {
    mistake: "newcomers that do not queue behind those who wait",
    edits: [edit("if (phase === Phase.waiting && this.#precedes(slot, state, kind, ticket, self)) return slot;", "")],
    program: named([[use(read, 0, 2)], [use(change, 0, 3)], [use(read, 1, 3)]]),
    limits: { patient: true },
  },
  {
    mistake: "copies that are overtaken without end",
    edits: [edit("(this.#bypassed[slot]) < BYPASS_LIMIT", "true")],
    program: named([[use(copy, 0, 2)], [use(write, 0, 1)], [use(write, 1, 2), use(write, 1, 2)]]),
    limits: { patient: true, bypass: 1 },
  },
  {
    mistake: "copies that go first from the beginning",
    edits: [edit("if (copy !== this.#givesWay(kind, self)) return !copy;", "")],
    program: named([[use(copy, 0, 2)], [use(exclusiveWrite, 0, 2)], [use(exclusiveWrite, 0, 2)]]),
    limits: { patient: true },
  },
  {
    mistake: "a cancellation that forgets that it may have been granted",
    edits: [edit("else this.release(token);", "")],
    program: canceled,
  },
  {
    mistake: "a cancellation that overwrites the grant",
    edits: [
      edit(
        "if (Atomics.compareExchange(states, slot, waiting, canceledWord) === waiting) this.#settle();",
        "Atomics.store(states, slot, canceledWord); if (true) this.#settle();",
      ),
    ],
    program: canceled,
  },
  {
    mistake: "a grant that overwrites the cancellation",
    edits: [
      edit(
        "if (Atomics.compareExchange(this.states, slot, state, inPhase(state, Phase.granted)) !== state) return;",
        "Atomics.store(this.states, slot, inPhase(state, Phase.granted));",
      ),
    ],
    program: canceled,
  },
  {
    mistake: "a free slot that nobody is told of",
    edits: [edit("    this.#offerSlot();\n", "")],
    program: oneSlot,
  },
  {
    mistake: "a slot that is not given back to the bitmap",
    edits: [edit("    this.#deactivate(slot);\n", "")],
    program: twoWriters,
  },
  {
    mistake: "a ticket that is too small",
    edits: [edit("return high * 2 ** 32 + (low >>> 0);", "return high * 2 ** 32 + (low >>> 0) - 1;")],
    program: named([[use(read, 0, 2)], [{ do: "ticket" }]], { hold: true }),
  },
  {
    mistake: "a recovery that leaves the mutex to the dead",
    edits: [edit(" || this.#stealFromDead()", "")],
    program: death,
  },
  {
    mistake: "a recovery that steals from the living",
    edits: [edit("this.#table.isDead(holder) &&", "")],
    program: death,
  },
  {
    mistake: "a recovery that rings nobody",
    edits: [edit("    this.rings.fill(ALL_THREADS);\n", "")],
    program: death,
  },
  {
    mistake: "a recovery that grants nothing",
    edits: [edit("    this.regrant(LockKind.change, BEFORE_ALL, LAST);\n    Atomics.and", "    Atomics.and")],
    program: death,
  },
  {
    mistake: "a recovery that trusts the bitmap",
    edits: [edit("    this.#active.fill(0);\n", "")],
    program: death,
  },
  {
    mistake: "a recovery that trusts the count of those who wait",
    edits: [edit("    this.words[WAITING] = 0;\n", "")],
    program: death,
  },
];

describe("the exploration finds", () => {
  for (const { mistake, edits, program, limits } of MUTANTS) {
    it(mistake, () => {
      const { violation } = explore(
        build(edits, { patient: program.deaths !== undefined, ...limits }),
        program,
        3_000_000,
      );
      expect(violation).toBeDefined();
    });
  }
});
