/** Small helpers to build the page's elements. */

/** Return the element with an id, which is in the page. */
export const find = (id) => document.getElementById(id);

/** Return a new element; `properties` with a hyphen are set as attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Show a text in an element, or hide the element if there is none. */
export function show(element, text) {
  if (element.textContent !== text) element.textContent = text; // else it would be read out again
  element.hidden = !text;
}

const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** Return a share as a percentage. */
export const asPercent = (share) => (share > 0 && share < 0.0005 ? "< 0.1%" : percent.format(share));

/** Return milliseconds with three digits at most, or seconds if there are many. */
export function asTime(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 1000) return `${(ms / 1000).toFixed(ms >= 10_000 ? 0 : 1)} s`;
  return `${ms.toFixed(ms >= 100 ? 0 : ms >= 10 ? 1 : 2)} ms`;
}
