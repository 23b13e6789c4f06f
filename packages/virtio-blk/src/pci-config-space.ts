/**
 * The PCI configuration space of the device: header, one BAR, and the capabilities that say where in the BAR the
 * structures are (virtio 1.2 §4.1.3, §4.1.4). What a driver may write to it is here; what that does is the transport's.
 */
import { assert, ByteView } from "@spindle/base";
import * as pci from "./pci-layout.ts";

const SPACE_BYTES = 256;
const FIRST_CAPABILITY = 0x40;
/** Bytes of a virtio capability; those with a word more say so. */
const CAPABILITY_BYTES = 16;
const WINDOW_BYTES = 20;
/** Places in the capability that is a window to the BAR. */
const WINDOW_BAR = 4;
const WINDOW_OFFSET = 8;
const WINDOW_LENGTH = 12;
const WINDOW_DATA = 16;

/** What `PciConfigSpace` needs to be told of the machine. */
export interface PciSpaceOptions {
  /** Whether the BAR is a range of ports or of memory. */
  readonly bar: "io" | "memory";
  /** The MSI-X capability as the emulator has it, without the byte that leads to the next; none when left out. */
  readonly msixCapability?: Uint8Array | undefined;
}

/** An access to the BAR through the configuration space. */
export interface BarWindow {
  readonly offset: number;
  readonly width: 1 | 2 | 4;
}

export class PciConfigSpace {
  readonly bytes: Uint8Array = new Uint8Array(SPACE_BYTES);
  readonly #view: ByteView = new ByteView(this.bytes);
  readonly #writable: Uint8Array = new Uint8Array(SPACE_BYTES);
  #window = 0;
  #msix: number | undefined;
  #end: number = FIRST_CAPABILITY;
  #link: number = pci.PCI_CAPABILITIES;

  constructor({ bar, msixCapability }: PciSpaceOptions) {
    this.#header(bar);
    this.#structure(pci.VIRTIO_PCI_CAP_COMMON_CFG, pci.COMMON_OFFSET, pci.COMMON_BYTES);
    // The word behind it is notify_off_multiplier: at 0 all queues have one address, and the value says which.
    this.#structure(pci.VIRTIO_PCI_CAP_NOTIFY_CFG, pci.NOTIFY_OFFSET, pci.NOTIFY_BYTES, CAPABILITY_BYTES + 4);
    this.#structure(pci.VIRTIO_PCI_CAP_ISR_CFG, pci.ISR_OFFSET, pci.ISR_BYTES);
    this.#structure(pci.VIRTIO_PCI_CAP_DEVICE_CFG, pci.DEVICE_OFFSET, pci.DEVICE_BYTES);
    this.#window = this.#structure(pci.VIRTIO_PCI_CAP_PCI_CFG, 0, 0, WINDOW_BYTES);
    for (const place of [WINDOW_BAR, WINDOW_OFFSET, WINDOW_LENGTH]) this.#allow(this.#window + place, 4);
    this.#writable.fill(0, this.#window + WINDOW_BAR + 1, this.#window + WINDOW_OFFSET);
    if (msixCapability === undefined) return;
    assert(msixCapability[0] === pci.PCI_CAP_ID_MSIX, "the capability is not MSI-X");
    const at = this.#capability(msixCapability[0] as number, msixCapability.length);
    this.bytes.set(msixCapability.subarray(2), at + 2);
    this.#msix = at;
    // The function's mask and its enable bit.
    this.#writable[at + 3] = 0xc0;
  }

  read(offset: number, width: 1 | 2 | 4): number {
    let value = 0;
    for (let index = width - 1; index >= 0; index--) value = value * 256 + (this.bytes[offset + index] ?? 0);
    return value;
  }

  /** Changes the bits that a driver may change. */
  write(offset: number, value: number, width: 1 | 2 | 4): void {
    for (let index = 0; index < width; index++) {
      const mask = this.#writable[offset + index] ?? 0;
      const before = this.bytes[offset + index] ?? 0;
      this.bytes[offset + index] = (before & ~mask) | ((value >>> (8 * index)) & mask);
    }
  }

  get command(): number {
    return this.#view.u16le(pci.PCI_COMMAND);
  }

  /** Whether the driver has enabled MSI-X. */
  get msixEnabled(): boolean {
    return this.#msix !== undefined && ((this.bytes[this.#msix + 3] as number) & 0x80) !== 0;
  }

  /** The access to the BAR that an access of the configuration space at `offset` stands for, if it is one. */
  windowAt(offset: number): BarWindow | undefined {
    if (offset !== this.#window + WINDOW_DATA) return undefined;
    const width = this.#view.u32le(this.#window + WINDOW_LENGTH);
    const at = this.#view.u32le(this.#window + WINDOW_OFFSET);
    const valid = (width === 1 || width === 2 || width === 4) && at % width === 0 && at + width <= pci.BAR_BYTES;
    return valid && this.bytes[this.#window + WINDOW_BAR] === 0 ? { offset: at, width } : undefined;
  }

  #header(bar: "io" | "memory"): void {
    const view = this.#view;
    view.setU16le(0x00, pci.PCI_VENDOR_ID);
    view.setU16le(0x02, pci.PCI_DEVICE_ID);
    view.setU16le(pci.PCI_STATUS, pci.PCI_STATUS_CAPABILITIES);
    // Revision 1 is a device without the legacy interface.
    view.setU32le(0x08, pci.PCI_CLASS * 256 + 1);
    view.setU16le(0x2c, pci.PCI_VENDOR_ID);
    view.setU16le(0x2e, 0x1100);
    this.bytes[pci.PCI_INTERRUPT_PIN] = 1;
    view.setU32le(pci.PCI_BAR0, bar === "io" ? 1 : 0);
    // The low byte of the address is not writable: so the driver finds the BAR's size.
    this.#allow(pci.PCI_BAR0 + 1, 3);
    this.#writable[pci.PCI_COMMAND] = 0x07;
    this.#writable[pci.PCI_COMMAND + 1] = pci.PCI_COMMAND_INTX_DISABLE / 256;
    this.#allow(0x0c, 2);
    this.#allow(pci.PCI_INTERRUPT_LINE, 1);
  }

  #structure(type: number, offset: number, length: number, size: number = CAPABILITY_BYTES): number {
    const at = this.#capability(pci.PCI_CAP_ID_VENDOR, size);
    this.bytes[at + 2] = size;
    this.bytes[at + 3] = type;
    this.#view.setU32le(at + 8, offset);
    this.#view.setU32le(at + 12, length);
    return at;
  }

  /** Adds a capability to the list. @returns where it stands. */
  #capability(id: number, size: number): number {
    const at = this.#end;
    this.#end += Math.ceil(size / 4) * 4;
    assert(this.#end <= SPACE_BYTES, "the capabilities have no room");
    this.bytes[this.#link] = at;
    this.#link = at + 1;
    this.bytes[at] = id;
    return at;
  }

  #allow(offset: number, length: number): void {
    this.#writable.fill(0xff, offset, offset + length);
  }
}
