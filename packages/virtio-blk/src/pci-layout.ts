/** Offsets and constants of the virtio-pci transport, without its legacy interface (virtio 1.2 §4.1). */

/** PCI vendor and device of a modern virtio block device: 0x1040 and the device's number. */
export const PCI_VENDOR_ID = 0x1af4;
export const PCI_DEVICE_ID = 0x1042;
/** Mass storage, SCSI, as QEMU's device says. */
export const PCI_CLASS = 0x01_0000;

export const PCI_COMMAND = 0x04;
export const PCI_STATUS = 0x06;
export const PCI_BAR0 = 0x10;
export const PCI_CAPABILITIES = 0x34;
export const PCI_INTERRUPT_LINE = 0x3c;
export const PCI_INTERRUPT_PIN = 0x3d;
export const PCI_COMMAND_IO = 1;
export const PCI_COMMAND_MEMORY = 2;
export const PCI_COMMAND_INTX_DISABLE = 0x400;
export const PCI_STATUS_CAPABILITIES = 0x10;
export const PCI_CAP_ID_VENDOR = 0x09;
export const PCI_CAP_ID_MSIX = 0x11;

export const VIRTIO_PCI_CAP_COMMON_CFG = 1;
export const VIRTIO_PCI_CAP_NOTIFY_CFG = 2;
export const VIRTIO_PCI_CAP_ISR_CFG = 3;
export const VIRTIO_PCI_CAP_DEVICE_CFG = 4;
export const VIRTIO_PCI_CAP_PCI_CFG = 5;

/** What stands for no MSI-X vector. */
export const VIRTIO_MSI_NO_VECTOR = 0xffff;

/** Bytes of the one BAR: small enough for a port range. */
export const BAR_BYTES = 0x100;
/** Where the structures stand in the BAR, and their bytes. */
export const COMMON_OFFSET = 0x00;
export const COMMON_BYTES = 0x40;
export const NOTIFY_OFFSET = 0x40;
export const NOTIFY_BYTES = 4;
export const ISR_OFFSET = 0x44;
export const ISR_BYTES = 4;
export const DEVICE_OFFSET = 0x80;
export const DEVICE_BYTES = 0x40;

/** The fields of the common configuration structure (§4.1.4.3). */
export const COMMON_DEVICE_FEATURE_SELECT = 0x00;
export const COMMON_DEVICE_FEATURE = 0x04;
export const COMMON_DRIVER_FEATURE_SELECT = 0x08;
export const COMMON_DRIVER_FEATURE = 0x0c;
export const COMMON_CONFIG_MSIX_VECTOR = 0x10;
export const COMMON_NUM_QUEUES = 0x12;
export const COMMON_DEVICE_STATUS = 0x14;
export const COMMON_CONFIG_GENERATION = 0x15;
export const COMMON_QUEUE_SELECT = 0x16;
export const COMMON_QUEUE_SIZE = 0x18;
export const COMMON_QUEUE_MSIX_VECTOR = 0x1a;
export const COMMON_QUEUE_ENABLE = 0x1c;
export const COMMON_QUEUE_DESC = 0x20;
export const COMMON_QUEUE_DRIVER = 0x28;
export const COMMON_QUEUE_DEVICE = 0x30;
