// The nodes of a page: found, filled, and made.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** Put a text into a node that has another one. */
export function put(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

/** An HTML element. */
export const element = (name, ...parts) => filled(document.createElement(name), ...parts);

/** An SVG element. */
export const shape = (name, ...parts) => filled(document.createElementNS(SVG, name), ...parts);

function filled(made, attributes = {}, ...children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
