/**
 * The driver's side of virtio-pci (virtio 1.2 §4.1): finds the structures through the capabilities, as any driver would,
 * and shows them as the registers that `startGuest` and `GuestQueue` know.
 */
import { BlockError } from "@spindle/base";
import * as pci from "../pci-layout.ts";
import type { AccessWidth } from "../register-bytes.ts";
import * as mmio from "../registers.ts";

/** A PCI function, as a bus shows it to a driver. */
export interface PciFunction {
  readConfig(offset: number, width: AccessWidth): number;
  writeConfig(offset: number, value: number, width: AccessWidth): void;
  readBar(offset: number, width: AccessWidth): number;
  writeBar(offset: number, value: number, width: AccessWidth): void;
}

/** Registers of mmio that are fields of the common structure: offset and width. */
const COMMON: ReadonlyMap<number, readonly [number, AccessWidth]> = new Map<number, readonly [number, AccessWidth]>([
  [mmio.VIRTIO_MMIO_DEVICE_FEATURES_SEL, [pci.COMMON_DEVICE_FEATURE_SELECT, 4]],
  [mmio.VIRTIO_MMIO_DEVICE_FEATURES, [pci.COMMON_DEVICE_FEATURE, 4]],
  [mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL, [pci.COMMON_DRIVER_FEATURE_SELECT, 4]],
  [mmio.VIRTIO_MMIO_DRIVER_FEATURES, [pci.COMMON_DRIVER_FEATURE, 4]],
  [mmio.VIRTIO_MMIO_STATUS, [pci.COMMON_DEVICE_STATUS, 1]],
  [mmio.VIRTIO_MMIO_CONFIG_GENERATION, [pci.COMMON_CONFIG_GENERATION, 1]],
  [mmio.VIRTIO_MMIO_QUEUE_SEL, [pci.COMMON_QUEUE_SELECT, 2]],
  [mmio.VIRTIO_MMIO_QUEUE_NUM_MAX, [pci.COMMON_QUEUE_SIZE, 2]],
  [mmio.VIRTIO_MMIO_QUEUE_NUM, [pci.COMMON_QUEUE_SIZE, 2]],
  [mmio.VIRTIO_MMIO_QUEUE_READY, [pci.COMMON_QUEUE_ENABLE, 2]],
  [mmio.VIRTIO_MMIO_QUEUE_DESC_LOW, [pci.COMMON_QUEUE_DESC, 4]],
  [mmio.VIRTIO_MMIO_QUEUE_DESC_HIGH, [pci.COMMON_QUEUE_DESC + 4, 4]],
  [mmio.VIRTIO_MMIO_QUEUE_DRIVER_LOW, [pci.COMMON_QUEUE_DRIVER, 4]],
  [mmio.VIRTIO_MMIO_QUEUE_DRIVER_HIGH, [pci.COMMON_QUEUE_DRIVER + 4, 4]],
  [mmio.VIRTIO_MMIO_QUEUE_DEVICE_LOW, [pci.COMMON_QUEUE_DEVICE, 4]],
  [mmio.VIRTIO_MMIO_QUEUE_DEVICE_HIGH, [pci.COMMON_QUEUE_DEVICE + 4, 4]],
]);

export class PciRegisters implements mmio.Registers {
  readonly #function: PciFunction;
  /** Where the structures stand in the BAR, by their type. */
  readonly #structures: ReadonlyMap<number, number>;

  /** @throws {BlockError} ENOTSUP when the function is no virtio block device. */
  constructor(pciFunction: PciFunction) {
    const identity = pciFunction.readConfig(0, 4);
    if (identity !== pci.PCI_DEVICE_ID * 2 ** 16 + pci.PCI_VENDOR_ID)
      throw new BlockError("ENOTSUP", "the PCI function is no virtio block device");
    this.#function = pciFunction;
    this.#structures = findStructures(pciFunction);
    pciFunction.writeConfig(pci.PCI_COMMAND, pci.PCI_COMMAND_IO | pci.PCI_COMMAND_MEMORY, 2);
  }

  read(offset: number, width: AccessWidth = 4): number {
    if (offset >= mmio.VIRTIO_MMIO_CONFIG)
      return this.#function.readBar(this.#at(pci.VIRTIO_PCI_CAP_DEVICE_CFG) + offset - mmio.VIRTIO_MMIO_CONFIG, width);
    switch (offset) {
      case mmio.VIRTIO_MMIO_MAGIC_VALUE:
        return mmio.VIRTIO_MMIO_MAGIC;
      case mmio.VIRTIO_MMIO_VERSION:
        return 2;
      case mmio.VIRTIO_MMIO_DEVICE_ID:
        return mmio.VIRTIO_ID_BLOCK;
      case mmio.VIRTIO_MMIO_INTERRUPT_STATUS:
        return this.#function.readBar(this.#at(pci.VIRTIO_PCI_CAP_ISR_CFG), 1);
      default: {
        const field = COMMON.get(offset);
        return field === undefined
          ? 0
          : this.#function.readBar(this.#at(pci.VIRTIO_PCI_CAP_COMMON_CFG) + field[0], field[1]);
      }
    }
  }

  write(offset: number, value: number, width: AccessWidth = 4): void {
    if (offset >= mmio.VIRTIO_MMIO_CONFIG) {
      const at = this.#at(pci.VIRTIO_PCI_CAP_DEVICE_CFG) + offset - mmio.VIRTIO_MMIO_CONFIG;
      this.#function.writeBar(at, value, width);
    } else if (offset === mmio.VIRTIO_MMIO_QUEUE_NOTIFY)
      this.#function.writeBar(this.#at(pci.VIRTIO_PCI_CAP_NOTIFY_CFG), value, 2);
    // The status is acknowledged by reading it.
    else if (offset === mmio.VIRTIO_MMIO_INTERRUPT_ACK) this.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS);
    else {
      const field = COMMON.get(offset);
      if (field !== undefined)
        this.#function.writeBar(this.#at(pci.VIRTIO_PCI_CAP_COMMON_CFG) + field[0], value, field[1]);
    }
  }

  #at(type: number): number {
    const at = this.#structures.get(type);
    if (at === undefined) throw new BlockError("ENOTSUP", `the device has no structure of type ${type}`);
    return at;
  }
}

/** Of several structures of a type the first is the device's preference. */
function findStructures(pciFunction: PciFunction): Map<number, number> {
  const structures = new Map<number, number>();
  let at = pciFunction.readConfig(pci.PCI_CAPABILITIES, 1);
  while (at !== 0) {
    const type = pciFunction.readConfig(at + 3, 1);
    const isVirtio = pciFunction.readConfig(at, 1) === pci.PCI_CAP_ID_VENDOR;
    if (isVirtio && !structures.has(type)) structures.set(type, pciFunction.readConfig(at + 8, 4));
    at = pciFunction.readConfig(at + 1, 1);
  }
  return structures;
}
