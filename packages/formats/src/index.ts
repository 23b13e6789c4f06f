export { luksFormat } from "./luks/driver.ts";
export { qcow2Format } from "./qcow2/driver.ts";
export { rawFormat } from "./raw/driver.ts";
