/** One image and its results: labels as bars, the evidence for each, and the time each stage took. */

import { classify, explain } from "./api.js";
import { asPercent, asTime, make } from "./dom.js";

const STAGES = ["receive", "decode", "queue", "infer", "other"];
let made = 0;

export class Card {
  #aborting = new AbortController();
  #maps = new Map(); // object URLs by a label's id
  #wanted = null; // the label whose map is shown or being fetched

  /** Show an image; `on.done(card, text)` tells of results, `on.removed(card)` of its end. */
  constructor(file, model, on) {
    this.file = file;
    this.model = model;
    this.on = on;
    this.name = file.name || "Pasted image";
    this.url = URL.createObjectURL(file);
    this.id = `card-${++made}`;
    this.photo = make("img", { src: this.url, alt: this.name, className: "source" });
    this.map = make("img", { alt: "", className: "map", hidden: true });
    this.frame = make("div", { className: "photo" }, this.photo, this.map);
    this.photo.onerror = () => {
      this.frame.classList.add("unshown");
      this.#showInstead();
    };
    this.meta = make("p", { className: "soft" });
    this.remove = make(
      "button",
      { type: "button", className: "quiet close", "aria-label": `Remove ${this.name}` },
      "×",
    );
    this.remove.onclick = () => this.discard();
    this.body = make("div", { className: "result" });
    const head = make("div", { className: "title" }, make("h3", { id: this.id }, this.name), this.remove);
    const side = make("div", { className: "side" }, head, this.meta, this.body);
    this.element = make("li", {}, make("article", { className: "card", "aria-labelledby": this.id }, this.frame, side));
    this.#wait();
  }

  /** Classify the image, and show its labels or what went wrong. */
  async run() {
    try {
      const answer = await classify(this.file, this.model, this.#aborting.signal);
      this.#showLabels(answer);
      const [best] = answer.results[0].labels;
      this.on.done(this, `${this.name}: ${best ? `${best.label}, ${asPercent(best.probability)}` : "no label"}`);
    } catch (problem) {
      if (this.#aborting.signal.aborted) return;
      this.#showProblem(problem);
      this.on.done(this, `${this.name}: ${problem.message}. ${problem.detail ?? ""}`);
    }
  }

  /** Classify the image once more. */
  retry() {
    this.problem = null;
    this.#wait();
    this.on.again(this);
  }

  /** Remove the image, and give up what is under way for it. */
  discard() {
    this.#aborting.abort();
    for (const url of [this.url, ...this.#maps.values()]) URL.revokeObjectURL(url);
    this.on.removed(this);
    this.element.remove();
  }

  #wait() {
    this.meta.textContent = "Classifying …";
    this.body.replaceChildren(...[90, 62, 40].map((width) => {
      const line = make("div", { className: "waiting" });
      line.style.width = `${width}%`;
      return line;
    }));
  }

  #showLabels({ model, results: [result], timings_ms: timings }) {
    this.meta.textContent = `${result.width} × ${result.height} · ${model}`;
    this.labels = make("ol", { className: "labels", "aria-label": "Labels" });
    const id = `${this.id}-hint`;
    this.note = make("p", { id, className: "soft hint" }, "Choose a label to see where its evidence lies.");
    for (const label of result.labels) this.labels.append(this.#bar(label));
    if (!result.labels.length) this.note.textContent = "No label is probable enough.";
    this.body.replaceChildren(this.labels, this.note, timing(timings));
    this.#showInstead();
  }

  /** Of a format that the browser does not know, show the service's picture. */
  #showInstead() {
    if (this.frame.classList.contains("unshown")) this.labels?.querySelector("button")?.click();
  }

  #bar(label) {
    const fill = make("span", { className: "fill" });
    fill.style.width = `${100 * label.probability}%`;
    const button = make(
      "button",
      { type: "button", "aria-pressed": "false", "aria-describedby": this.note.id },
      make("span", { className: "name" }, label.label),
      make("span", { className: "value" }, asPercent(label.probability)),
      make("span", { className: "track" }, fill),
    );
    button.onclick = () => this.#toggle(label, button);
    return make("li", {}, button);
  }

  async #toggle(label, button) {
    const on = button.getAttribute("aria-pressed") !== "true";
    for (const each of this.labels.querySelectorAll("button")) each.setAttribute("aria-pressed", "false");
    this.#wanted = on ? label.id : null;
    if (!on) {
      this.map.hidden = true;
      this.photo.alt = this.name;
      return;
    }
    button.setAttribute("aria-pressed", "true");
    try {
      if (!this.#maps.has(label.id)) {
        button.setAttribute("aria-busy", "true");
        const picture = await explain(this.file, this.model, label.id, this.#aborting.signal);
        this.#maps.set(label.id, URL.createObjectURL(picture));
      }
      if (this.#wanted !== label.id) return; // another label was chosen meanwhile
      this.map.src = this.#maps.get(label.id);
      this.map.hidden = false;
      this.photo.alt = `${this.name}, with the evidence for ${label.label}`;
      this.note.textContent = `Bright: evidence for ${label.label}. Dark: not seen by the model.`;
    } catch (problem) {
      if (this.#aborting.signal.aborted || this.#wanted !== label.id) return;
      button.setAttribute("aria-pressed", "false");
      this.map.hidden = true;
      this.note.textContent = problem.code === "missing_output"
        ? "This model's file does not have what activation maps are computed from."
        : `${problem.message}. ${problem.detail}`;
      this.on.said(this.note.textContent);
    } finally {
      button.removeAttribute("aria-busy");
    }
  }

  #showProblem(problem) {
    this.problem = problem;
    this.meta.textContent = "";
    const again = make("button", { type: "button", className: "button small" }, "Try again");
    again.onclick = () => {
      this.retry();
      this.remove.focus();
    };
    this.body.replaceChildren(
      make("p", { className: "problem" }, make("strong", {}, `${problem.message}.`), " ", problem.detail ?? ""),
      again,
    );
  }
}

/** Return a bar of how the time until the answer was spent, with its legend. */
function timing(timings) {
  const known = STAGES.slice(0, -1).map((stage) => timings[stage] ?? 0);
  const other = Math.max(0, timings.total - known.reduce((sum, ms) => sum + ms, 0));
  const bar = make("div", { className: "stages", "aria-hidden": "true" });
  const legend = make("dl", { className: "legend" });
  [...known, other].forEach((ms, index) => {
    const part = make("span", { className: `stage-${STAGES[index]}` });
    part.style.flexGrow = ms;
    bar.append(part);
    const key = make("span", { className: `key stage-${STAGES[index]}`, "aria-hidden": "true" });
    legend.append(make("div", {}, make("dt", {}, key, STAGES[index]), make("dd", {}, asTime(ms))));
  });
  legend.append(make("div", { className: "total" }, make("dt", {}, "total"), make("dd", {}, asTime(timings.total))));
  return make("div", { className: "timing" }, bar, legend);
}
