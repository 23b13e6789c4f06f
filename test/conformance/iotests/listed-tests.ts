/** Which of QEMU's iotests are run. */

/** The tests of the image tools: `npm run iotests` runs them where nothing else is asked for. */
export const IMAGE_TOOL_TESTS: readonly string[] = (
  "001 003 005 009 011 013 015 018 020 022 024 026 029 032 034 036 038 042 044 047 049 052 054 062 072 074 079 082 " +
  "089 097 101 104 106 110 112 114 121 125 133 134 137 150 158 160 170 174 178 187 188 189 197 198 204 215 221 243 251 253 263 265 270 272 " +
  "284 289 292 303 313"
).split(" ");

/** Those that a run of all of this project's tests has time for. Each passes. */
export const SHORT_TESTS: Readonly<Record<"qcow2" | "raw", readonly string[]>> = {
  qcow2: "005 009 015 036 042 052 054 062 072 074 097 104 114 133 150 170 174 187 204".split(" "),
  raw: "005 009 052 101 104 150 221 253".split(" "),
};
