/** The version of the programs, the same as in the manifest. */
import type { Version } from "@spindle/monitor";

export const VERSION = "0.1.0";

/** The version of QEMU's programs whose words and output ours have. */
export const QEMU_VERSION = "7.2.0";

const [major = 0, minor = 0, micro = 0] = VERSION.split(".").map(Number);

/** As QMP's greeting and `query-version` tell it. */
export const VERSION_NUMBERS: Version = { major, minor, micro, package: "Spindle" };
