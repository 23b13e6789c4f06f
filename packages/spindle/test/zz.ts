import { createImage, openDisk, imageInfo, imageChainInfo } from "spindle";
import * as fs from "node:fs";
process.chdir("/tmp/cli/w");
for (const f of fs.readdirSync(".")) fs.rmSync(f);
console.log(await createImage("base.qcow2", { format: "qcow2", size: 1 << 28 }));
{
  await using disk = await openDisk("base.qcow2");
  for (let at = 0; at < disk.length / 2; at += 1 << 20) await disk.write(at, new Uint8Array(1 << 20).fill((at >> 20) + 1));
  await disk.flush();
}
await createImage("vm.qcow2", { format: "qcow2", backing: { filename: "base.qcow2", format: "qcow2" } });
console.log(await imageInfo("vm.qcow2"));
await using disk = await openDisk("vm.qcow2");
const job = disk.stream({ workers: 2 });
for await (const p of job) console.log(p);
console.log(await job);
for await (const e of disk.map()) console.log(e);
console.log(await disk.info(), (await imageChainInfo("vm.qcow2")).length);
console.log((await disk.read(5 << 20, 4)));
