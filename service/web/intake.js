/** The ways in which images come: chosen, dropped (folders too) or pasted. */

import { find } from "./dom.js";

/** Give each list of files that comes to `taken`. */
export function watchIntake(taken) {
  const [input, drop] = [find("files"), find("drop")];
  input.onchange = () => {
    taken([...input.files]);
    input.value = ""; // so that the same file can be chosen again
  };

  // The whole page is a target: a file dropped beside one would replace the page.
  let depth = 0;
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    drop.classList.toggle("over", depth > 0);
  };
  document.addEventListener("dragenter", (event) => { event.preventDefault(); mark(1); });
  document.addEventListener("dragleave", () => mark(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    mark(-depth);
    taken(await filesOf(event.dataTransfer));
  });

  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) taken(files);
  });
}

/** Return the files that were dropped, with those in folders. */
async function filesOf(transfer) {
  // All entries have to be asked for before the first await: afterwards, the list is empty.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  return (await Promise.all(entries.map(inside))).flat();
}

async function inside(entry) {
  if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a browser gives some 100 at a time
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) break;
    found.push(...some);
  }
  const shown = found.filter((each) => !each.name.startsWith("."));
  return (await Promise.all(shown.map(inside))).flat();
}
