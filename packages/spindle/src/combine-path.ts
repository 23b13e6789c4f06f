/** Names of backing files as they count from where the program stands: what people see, not what is opened. */

/** The name that `name`, found in the image `image`, has from here: nothing is looked up, and nothing tidied. */
export function combinePath(image: string, name: string): string {
  if (name === "" || name.startsWith("/") || /^[^/]*:/.test(name)) return name;
  return image.slice(0, image.lastIndexOf("/") + 1) + name;
}
