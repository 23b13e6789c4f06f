/**
 * A boot sector that uses its disk through the firmware: says hello over the serial port, reads the next sector and says what
 * stands there, and writes it to the third. Then it ends the machine through QEMU's isa-debug-exit at port 0xf4.
 */

const LOADED_AT = 0x7c00;
const BUFFER = 0x7e00;

/** A byte, the place of a label, a reference to one, or text that ends with a zero. */
type Item = number | { at: string } | { absolute: string } | { near: string } | { short: string } | { text: string };

const CODE: readonly Item[] = [
  ...[0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0], // xor ax, ax; mov ds, ax; mov es, ax; mov ss, ax
  ...[0xbc, 0x00, 0x7c], // mov sp, 0x7c00
  ...[0xbe, { absolute: "hello" }, 0xe8, { near: "say" }], // mov si, hello; call say
  ...[0xb4, 0x42, 0xbe, { absolute: "second" }, 0xcd, 0x13], // mov ah, 0x42; mov si, second; int 0x13
  ...[0x72, { short: "end" }], // jc end
  ...[0xbe, 0x00, 0x7e, 0xe8, { near: "say" }], // mov si, 0x7e00; call say
  ...[0xb8, 0x00, 0x43, 0xbe, { absolute: "third" }, 0xcd, 0x13], // mov ax, 0x4300; mov si, third; int 0x13
  ...[0x72, { short: "end" }], // jc end
  ...[0xbe, { absolute: "written" }, 0xe8, { near: "say" }], // mov si, written; call say
  { at: "end" },
  ...[0xe6, 0xf4, 0xf4, 0xeb, 0xfd], // out 0xf4, al; hlt; jmp to it
  { at: "say" },
  0x52, // push dx: the drive's number
  { at: "next" },
  ...[0xac, 0x84, 0xc0, 0x74, { short: "said" }], // lodsb; test al, al; jz said
  ...[0xba, 0xf8, 0x03, 0xee, 0xeb, { short: "next" }], // mov dx, 0x3f8; out dx, al; jmp next
  { at: "said" },
  ...[0x5a, 0xc3], // pop dx; ret
  { at: "hello" },
  { text: "the first sector runs\n" },
  { at: "written" },
  { text: "the third sector is written\n" },
  ...diskAddressPacket("second", 1),
  ...diskAddressPacket("third", 2),
];

/** What the firmware's extended functions want: one sector, between the buffer and a place on the disk. */
function diskAddressPacket(name: string, sector: number): Item[] {
  return [{ at: name }, 16, 0, 1, 0, BUFFER & 0xff, BUFFER >> 8, 0, 0, sector, 0, 0, 0, 0, 0, 0, 0];
}

function sizeOf(item: Item): number {
  if (typeof item === "number" || "short" in item) return 1;
  if ("at" in item) return 0;
  return "text" in item ? item.text.length + 1 : 2;
}

/** 512 bytes. */
export function bootSector(): Buffer {
  const places = new Map<string, number>();
  let at = 0;
  for (const item of CODE) {
    if (typeof item === "object" && "at" in item) places.set(item.at, at);
    at += sizeOf(item);
  }
  const sector = Buffer.alloc(512);
  at = 0;
  for (const item of CODE) {
    if (typeof item === "number") sector[at] = item;
    else if ("absolute" in item) sector.writeUInt16LE(LOADED_AT + (places.get(item.absolute) as number), at);
    else if ("near" in item) sector.writeInt16LE((places.get(item.near) as number) - at - 2, at);
    else if ("short" in item) sector.writeInt8((places.get(item.short) as number) - at - 1, at);
    else if ("text" in item) sector.write(`${item.text}\0`, at, "latin1");
    at += sizeOf(item);
  }
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}
