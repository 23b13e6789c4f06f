import { LockKind } from "@spindle/shared-memory";
import { explore } from "/work/main/packages/shared-memory/test/explore/explore.ts";
import { cancelable, named, use } from "/work/main/packages/shared-memory/test/explore/program.ts";
import { build } from "/work/main/packages/shared-memory/test/explore/world.ts";

const b = build();
const X = LockKind.exclusiveWrite,
  C = LockKind.copy,
  R = LockKind.read,
  W = LockKind.write,
  H = LockKind.change;
for (const p of [
  named([[use(X, 0, 2)], [use(X, 1, 3)]]),
  named([
    [use(X, 0, 2), use(C, 0, 2)],
    [use(X, 1, 3), use(C, 1, 3)],
  ]),
  named([[use(X, 0, 2)], [cancelable(X, 1, 3)]]),
  named([[use(X, 0, 2)], [use(X, 1, 3)]], { slots: 1 }),
  named([[use(X, 0, 2)], [use(X, 1, 3)]], { deaths: 1 }),
  named([[use(X, 0, 2)], [use(X, 1, 3)], [use(C, 0, 3)]]),
  named([[use(X, 0, 2)], [use(X, 1, 3)]], { deaths: 2 }),
]) {
  try {
    const s = performance.now();
    const o = explore(b, p, 6e5);
    console.log(
      p.name,
      JSON.stringify({ ...p, threads: undefined, name: undefined }),
      o.states,
      o.steps,
      (performance.now() - s).toFixed(0) + "ms",
    );
    if (o.violation) console.log(o.violation);
  } catch (e) {
    console.log(String(e));
  }
}
