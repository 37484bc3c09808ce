/** The service's API, with its errors as problems in plain words. */

// The page may be served below a path that a proxy adds, so all paths are relative to this file.
const root = new URL("..", import.meta.url);

/** Gets an event "keyneeded" whenever the service, or a proxy before it, asks for an API key. */
export const access = new EventTarget();

let key = null;
try {
  key = sessionStorage.getItem("key");
} catch {
  // Storage is blocked: a key is kept until the page is left.
}

/** Send an API key with every request from now on. */
export function useKey(text) {
  key = text;
  try {
    sessionStorage.setItem("key", key);
  } catch {
    // As above.
  }
}

/** Why a request failed: a title, a sentence with the details, the status and the cause's code. */
export class Problem extends Error {
  constructor(title, detail, status = 0, code = "") {
    super(title);
    this.detail = detail;
    this.status = status;
    this.code = code;
  }
}

/** Return what the service is doing now. */
export const summary = async (signal) => (await call("v1/summary", { signal })).json();

/** Return the served models and the broken ones. */
export const models = async () => (await call("v1/models")).json();

/** Return the most probable labels of an image. */
export const classify = async (file, model, signal) =>
  (await call(`v1/classify?${query(model)}`, posted(file, signal))).json();

/** Return a picture of where in an image the evidence for a label lies. */
export const explain = async (file, model, label, signal) => {
  const options = posted(file, signal);
  options.headers.Accept = "image/png";
  return (await call(`v1/explain?${query(model, { label })}`, options)).blob();
};

// The content decides what an image is, whatever the browser takes it for.
const posted = (body, signal) => ({
  method: "POST",
  headers: { "Content-Type": "application/octet-stream" },
  body,
  signal,
});

const query = ({ name, version }, more = {}) => new URLSearchParams({ model: name, version, ...more });

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(new URL(path, root), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(
      "No answer",
      "The service can't be reached, or the file can't be read any more.",
    );
  }
  if (response.ok) return response;
  if (response.status === 401) access.dispatchEvent(new Event("keyneeded"));
  throw await problem(response);
}

async function problem(response) {
  const type = response.headers.get("Content-Type") ?? "";
  if (type.includes("json")) {
    const { title, detail, code } = await response.json();
    if (title) return new Problem(title, sentence(detail ?? ""), response.status, code);
  }
  const { status, statusText } = response;
  return new Problem(`Error ${status}`, `The answer was ${status} ${statusText}.`, status);
}

/** Return a detail, which is a clause, as a sentence. */
const sentence = (text) =>
  text && text[0].toUpperCase() + text.slice(1) + (/[.!?)]$/.test(text) ? "" : ".");
