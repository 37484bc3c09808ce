/** What the service is doing now: asked for once a second while somebody can see it. */

import { summary } from "./api.js";
import { asTime, find, make, show } from "./dom.js";

const EVERY_MS = 1000;
const RETRY_MS = 4000;
const POINTS = 60;
const NOW_POINTS = 3; // whose mean is the rate of now
const STATUSES = { 499: "client left", 503: "503 (busy)", 504: "504 (late)" };

const rates = []; // requests per second, each over the time since the last summary
let last = null;
let timer = null;

/** Start the live view. */
export function startLive() {
  const pause = find("pause");
  pause.onclick = () => {
    const paused = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Resume" : "Pause";
    wake();
  };
  document.addEventListener("visibilitychange", wake);
  wake();
}

/** Go on, unless nobody wants to see it. */
function wake() {
  clearTimeout(timer);
  if (!document.hidden && find("pause").getAttribute("aria-pressed") === "false") update();
}

async function update() {
  let next = EVERY_MS;
  try {
    draw(await summary());
    show(find("live-error"), "");
  } catch (problem) {
    show(find("live-error"), `${problem.message}. ${problem.detail ?? ""}`);
    next = RETRY_MS;
  }
  clearTimeout(timer); // the button may have been pressed twice meanwhile
  timer = setTimeout(wake, next);
}

function draw(now) {
  const seconds = last ? now.uptime_s - last.uptime_s : 0;
  if (last && seconds < 0) rates.length = 0; // it was started anew
  else if (seconds > 0) rates.push((now.requests.total - last.requests.total) / seconds);
  rates.splice(0, rates.length - POINTS);
  last = now;
  find("window").textContent = `last ${Math.round(now.window_s)} s`;
  find("figures").replaceChildren(
    requests(now),
    latency(now),
    batches(now.batch_sizes),
    ...queues(now.models),
  );
}

function requests({ requests: { per_s: average, in_flight: inFlight, total, by_status: statuses } }) {
  const latest = rates.slice(-NOW_POINTS);
  const perSecond = latest.length ? latest.reduce((sum, rate) => sum + rate, 0) / latest.length : average;
  const failed = Object.entries(statuses).filter(([status]) => status !== "200");
  const text = failed.map(([status, count]) => `${count} × ${STATUSES[status] ?? status}`).join(", ");
  return panel(
    "Requests",
    make(
      "p",
      { className: "large" },
      make("strong", {}, perSecond < 10 ? perSecond.toFixed(1) : Math.round(perSecond)),
      " per second",
    ),
    sparkline(),
    pairs({ "in flight": inFlight, "since the start": total.toLocaleString("en"), ...(text && { failed: text }) }),
  );
}

function latency({ latency_ms: whole, stages_ms: stages }) {
  const rows = { request: whole, decode: stages.decode, queue: stages.queue, infer: stages.infer };
  const head = make("tr", {}, make("td"), ...["p50", "p90", "p99"].map((name) => make("th", { scope: "col" }, name)));
  const body = Object.entries(rows).map(([name, row]) => make(
    "tr",
    {},
    make("th", { scope: "row" }, name),
    ...[row.p50, row.p90, row.p99].map((ms) => make("td", {}, asTime(ms))),
  ));
  return panel("Latency", make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

function batches(sizes) {
  const counts = Object.entries(sizes);
  if (!counts.length) return panel("Batch sizes", make("p", { className: "soft" }, "No batches yet."));
  const all = counts.reduce((sum, [, count]) => sum + count, 0);
  const rows = counts.map(([size, count]) => {
    const fill = make("span", { className: "fill" });
    fill.style.width = `${(100 * count) / all}%`;
    return make(
      "div",
      {},
      make("dt", {}, range(size)),
      make("dd", {}, make("span", { className: "track", "aria-hidden": "true" }, fill), rounded(count / all)),
    );
  });
  return panel("Batch sizes", make("dl", { className: "bars" }, ...rows));
}

const rounded = (share) => (share < 0.005 ? "< 1%" : `${Math.round(100 * share)}%`);

/** Return which sizes a bucket has: those up to its bound, and above the one before. */
function range(bound) {
  if (bound === "inf") return "over 256";
  const least = Number(bound) / 2 + 1;
  return least >= Number(bound) ? bound : `${least}–${bound}`;
}

function queues(models) {
  if (!models.length) return [];
  const rows = models.map((model) => make(
    "tr",
    {},
    make("th", { scope: "row" }, models.some((each) => each !== model && each.name === model.name)
      ? `${model.name} ${model.version}` : model.name),
    make("td", {}, model.images_per_s.toFixed(1)),
    make("td", {}, String(model.queued)),
  ));
  const head = make("tr", {}, make("td"), make("th", { scope: "col" }, "images/s"), make("th", { scope: "col" }, "queue"));
  return [panel("Models", make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)))];
}

/** Return the rates of the last minute as a line. */
function sparkline() {
  const [width, height] = [240, 44];
  const most = Math.max(1, ...rates);
  const points = rates.map((rate, index) => [
    width - (rates.length - 1 - index) * (width / (POINTS - 1)),
    height - 2 - (rate / most) * (height - 6),
  ]);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, class: "spark", "aria-hidden": "true", preserveAspectRatio: "none" });
  if (points.length > 1) {
    const line = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
    svg.append(
      element("polygon", { points: `${points[0][0].toFixed(1)},${height} ${line} ${width},${height}` }),
      element("polyline", { points: line }),
    );
  }
  return svg;
}

function element(tag, attributes) {
  const created = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
  return created;
}

const panel = (title, ...children) => make("div", { className: "panel" }, make("h3", {}, title), ...children);

const pairs = (facts) => make(
  "dl",
  { className: "pairs" },
  ...Object.entries(facts).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))),
);
