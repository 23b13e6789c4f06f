import { LockKind } from "../../src/index.ts";
import { explore } from "./explore.ts";
import { named, pairs, use, type Program } from "./program.ts";
import { build } from "./stepped-lock.ts";
const { read, write, exclusiveWrite, copy, change } = LockKind;
const FOUR_USES = [use(exclusiveWrite, 0, 2), use(copy, 1, 3), use(read, 0, 3), use(change, 0, 3)];
const lock = build(), patient = build([], { patient: true }), c1= build([], { patient: true, bypass: 1 });
let big=0;
function go(g: string, made: typeof lock, ps: Iterable<Program>) { const s=performance.now(); let n=0, st=0; for (const p of ps) { const s1=performance.now(); try { const o=explore(made,p,1_500_000); n++; st+=o.states; if (o.violation) console.log(o.violation); } catch(e) { console.log(String(e)); } const d=performance.now()-s1; if (d>2500) console.log("   slow", p.name, d.toFixed(0)); if (performance.now()-s>25000) {console.log("cut"); break;} } console.log(g, n, st, (performance.now()-s).toFixed(0)); }
go("slots impatient 1", lock, pairs([use(exclusiveWrite, 0, 2), use(read, 1, 3)], 1, { slots: 1 }));
go("pairs2 of 4 patient", patient, pairs(FOUR_USES, 2));
go("three", patient, [
      named([[use(write, 0, 2)], [use(copy, 1, 4)], [use(exclusiveWrite, 3, 5)]]),
      named([[use(copy, 0, 2)], [use(copy, 1, 3)], [use(write, 2, 4)]]),
      named([[use(change, 0, 2)], [use(change, 1, 3)], [use(write, 0, 1)]])]);
const T=(kind:LockKind,start:number,end:number)=>({do:"take" as const,kind,start,end}); const drop={do:"drop" as const};
go("over", c1, [
      named([[use(copy, 0, 2)], [T(write, 0, 2), use(write, 1, 2), drop]], { slots: 3 }),
      named([[use(copy, 0, 2)], [T(write, 0, 1), use(write, 1, 2), use(write, 1, 2), drop]], { slots: 3 })]);
go("over3", c1, [
      named([[use(copy, 0, 2)], [use(exclusiveWrite, 0, 1), use(write, 1, 2)], [use(exclusiveWrite, 1, 3)]], {
        slots: 3,
      }),
      named([[T(exclusiveWrite, 2, 4), drop], [use(copy, 0, 2)], [use(exclusiveWrite, 1, 3)]], { slots: 3 })]);
go("slots 3", patient, [
      named([[use(read, 0, 2)], [use(write, 0, 2)], [use(copy, 0, 2)]], { slots: 1 }),
      named([[use(read, 0, 2)], [use(change, 0, 2)], [use(read, 0, 2)]], { slots: 2 }),
]);
go("slots impatient 2", lock, pairs([use(exclusiveWrite, 0, 2), use(read, 1, 3)], 2, { slots: 1 }));
