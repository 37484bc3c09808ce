/** Wires the page together: files come in, wait their turn, and become cards. */

import { access, models, useKey } from "./api.js";
import { offerCamera } from "./camera.js";
import { Card } from "./card.js";
import { find, make, show } from "./dom.js";
import { watchIntake } from "./intake.js";
import { startLive } from "./live.js";

const AT_ONCE = 4; // browsers open six connections to a host; two are left for the rest
const MOST_CARDS = 100;

const cards = new Set();
const waiting = [];
let running = 0;
let served = [];
let reloading = null; // a timer, while models are not there or not ready

function add(files) {
  const room = MOST_CARDS - cards.size;
  if (files.length && !served.length) {
    show(find("notice"), "No model is ready yet. Try again in a moment.");
    loadModels();
    return;
  }
  show(find("notice"), files.length > room
    ? `The page holds ${MOST_CARDS} images, so ${files.length - room} of ${files.length} were left out. Remove some to make room.`
    : "");
  for (const file of files.slice(0, Math.max(0, room))) {
    const card = new Card(file, chosenModel(), { done, again, removed, said });
    cards.add(card);
    find("cards").prepend(card.element);
    waiting.push(card);
  }
  find("clear").hidden = !cards.size;
  startNext();
}

function startNext() {
  while (running < AT_ONCE && waiting.length) {
    const card = waiting.shift();
    running += 1;
    card.run().finally(() => {
      running -= 1;
      startNext();
    });
  }
}

const said = (text) => { find("said").textContent = text; };
const done = (card, text) => said(text);

function again(card) {
  card.model = chosenModel();
  waiting.push(card);
  startNext();
}

function removed(card) {
  cards.delete(card);
  if (waiting.includes(card)) waiting.splice(waiting.indexOf(card), 1);
  find("clear").hidden = !cards.size;
  const beside = card.element.nextElementSibling ?? card.element.previousElementSibling;
  (beside?.querySelector(".close") ?? find("files")).focus({ preventScroll: true });
}

find("clear").onclick = () => {
  for (const card of [...cards]) card.discard();
  said("All images were removed.");
};

// The choice of a model.

const chosenModel = () => served[find("model").selectedIndex] ?? served[0];

async function loadModels() {
  clearTimeout(reloading);
  let found;
  try {
    found = await models();
    if (!served.length) show(find("notice"), "");
  } catch (problem) {
    show(find("notice"), `${problem.message}. ${problem.detail}`);
    reloading = setTimeout(loadModels, 4000);
    return;
  }
  if (found.models.some((model) => model.state !== "ready")) reloading = setTimeout(loadModels, 2000);
  const select = find("model");
  const before = chosenModel();
  served = found.models;
  const several = (name) => served.filter((each) => each.name === name).length > 1;
  select.replaceChildren(...served.map((model) => make("option", {
    textContent: (several(model.name) ? `${model.name} ${model.version}` : model.name)
      + (model.state === "ready" ? "" : ` (${model.state})`),
    disabled: model.state !== "ready",
  })));
  const same = served.findIndex((each) => each.name === before?.name && each.version === before?.version);
  select.selectedIndex = same >= 0 ? same : mostAsked(served);
  describe();
}

/** Return the index of the default model's version that most requests get, 0 without one. */
function mostAsked(models) {
  const share = ({ default: byDefault, share }) => (byDefault ? share : -1);
  const most = Math.max(...models.map(share));
  return Math.max(0, models.findLastIndex((each) => share(each) === most));
}

function describe() {
  const model = chosenModel();
  const [height, width = height] = [model?.input_size].flat(); // one number if it is a square
  find("about").textContent = model
    ? `${model.architecture} · ${width} × ${height} px · ${model.classes} labels · ${model.computed_in} on ${model.provider}`
    : "";
}

find("model").onchange = describe;
window.addEventListener("focus", loadModels);

// The API key: asked for once the service, or a proxy before it, asks for one.

access.addEventListener("keyneeded", () => { find("access").hidden = false; });

find("access").onsubmit = (event) => {
  event.preventDefault();
  useKey(find("key").value);
  find("access").hidden = true;
  loadModels();
  for (const card of cards) if (card.problem?.status === 401) card.retry();
};

// The theme: the system's, until it is chosen here.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const showTheme = () => find("theme").setAttribute("aria-pressed", String(isDark()));

find("theme").onclick = () => {
  const chosen = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  try {
    localStorage.setItem("theme", chosen);
  } catch {
    // Storage is blocked: the choice lasts until the page is left.
  }
  showTheme();
};
dark.addEventListener("change", showTheme);

showTheme();
watchIntake(add);
offerCamera((file) => add([file]));
loadModels();
startLive();
