import { LockKind } from "../../src/index.ts";
import { explore } from "./explore.ts";
import { ALL_KINDS, cancelable, named, type Program, pairs, use } from "./program.ts";
import { build } from "./stepped-lock.ts";

const b = build([], { patient: true });
const b1 = build([], { bypass: 1 });
const { read: R, write: W, exclusiveWrite: X, copy: C, change: H } = LockKind;
function go(p: Program, made = b): void {
  const s = performance.now();
  try {
    const o = explore(made, p, 4e6);
    console.log(
      p.name,
      JSON.stringify({ ...p, threads: undefined, name: undefined }),
      o.states,
      `${(performance.now() - s).toFixed(0)}ms`,
    );
    if (o.violation) console.log(o.violation);
  } catch (e) {
    console.log(String(e));
  }
}
let n = 0,
  st = 0;
const s = performance.now();
const uses = ALL_KINDS.flatMap((k) => [use(k, 0, 2), use(k, 1, 3)]);
for (const p of pairs(uses, 1)) {
  const o = explore(b, p);
  n++;
  st += o.states;
  if (o.violation) {
    console.log(o.violation);
    break;
  }
}
console.log("pairs 1", n, st, performance.now() - s);
go(named([[use(W, 0, 2)], [use(W, 1, 3)], [use(R, 0, 3)]]));
go(named([[use(R, 0, 2)], [use(H, 1, 3)], [use(R, 0, 3)]]));
go(named([[{ do: "try", kind: X, start: 0, end: 2 }], [use(X, 1, 3)]], { deaths: 1 }));
go(
  named([[use(C, 0, 2)], [{ do: "take", kind: W, start: 0, end: 2 }, use(W, 1, 2), { do: "drop" }]], { slots: 3 }),
  b1,
);
go(named([[use(X, 0, 2)], [{ do: "ticket" }]]));
go(named([[use(X, 0, 2), use(X, 0, 2)], [{ do: "ticket" }]]));
go(named([[cancelable(X, 0, 2)], [cancelable(X, 1, 3)]]));
go(named([[cancelable(X, 0, 2)], [use(X, 1, 3)]], { deaths: 1 }));
go(named([[use(X, 0, 2)], [use(X, 0, 2)]], { slots: 1, deaths: 1 }));
go(named([[use(X, 0, 2)], [use(X, 1, 3)], [use(C, 0, 3)]]));
go(named([[use(X, 0, 2)]], { deaths: 2 }));
go(named([[use(X, 0, 2)], [use(X, 1, 3)]], { deaths: 2 }));
