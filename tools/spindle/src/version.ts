/** The version of the programs, the same as in the manifest. */
export const VERSION = "0.1.0";
