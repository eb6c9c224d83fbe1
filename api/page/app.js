// The operator's page. Plain JavaScript: no framework, no build step, nothing from elsewhere. Text from the server only
// ever becomes text nodes. The token comes behind # in the address, which no browser sends, moves into sessionStorage and
// leaves the address bar; pictures are fetched with it and shown through object URLs, so no token ever stands in a
// picture's address.
"use strict";

const $ = (id) => document.getElementById(id);
const REFRESH_MS = 2500;
const STATES = {
  searchable: ["good", "searchable"],
  decoding: ["busy", "decoding"],
  connecting: ["busy", "connecting"],
  retrying: ["warn", "retrying"],
  failed: ["bad", "failed"],
  refused: ["bad", "refused"],
  ended: ["", "ended"],
};

let token = "";
let role = "viewer";
let cameras = [];
let chosen = new Set();
let like = null;
let hits = [];
let cursor = null;
let running = null;
let lastBody = null;
let ready = false;
const pictures = new Map();

// ---------------------------------------------------------------- small helpers

/** An element with properties, attributes (names with a dash or `role`) and children; strings become text nodes. */
function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key.includes("-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

class ApiError extends Error {
  constructor(status, body) {
    super(body.message || `the server answered ${status}`);
    Object.assign(this, { status, code: body.code, requestId: body.request_id });
  }
}

async function call(method, path, body, signal) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  if (body) headers["content-type"] = "application/json";
  const response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  if (response.ok) return response;
  const error = new ApiError(response.status, await response.json().catch(() => ({})));
  if (error.status === 401) askForToken(token ? "This token is unknown, revoked or expired." : "");
  throw error;
}

const json = async (...args) => (await call(...args)).json();

/** The picture's object URL; the same picture is fetched once. */
function picture(path) {
  if (!pictures.has(path)) {
    const url = call("GET", path).then((r) => r.blob()).then((b) => URL.createObjectURL(b));
    url.catch(() => pictures.delete(path));
    pictures.set(path, url);
  }
  return pictures.get(path);
}

function forgetPictures(kept) {
  for (const [path, url] of pictures) {
    if (kept.has(path)) continue;
    pictures.delete(path);
    url.then(URL.revokeObjectURL, () => {});
  }
}

const dayFormat = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short", year: "numeric" });
const timeFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = (iso) => {
  const date = new Date(iso);
  return date.toDateString() === new Date().toDateString() ? "today" : dayFormat.format(date);
};
const time = (iso) => timeFormat.format(new Date(iso));
const percent = (p) => (p > 0.99 ? ">99\u202f%" : p < 0.01 ? "<1\u202f%" : `${Math.round(p * 100)}\u202f%`);
const seconds = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`);

/** Probability as a bar with its number in words; similarity alone when the decoder did not look. */
function bar(hit) {
  const p = hit.probability;
  const part = p === null ? Math.max(0, hit.similarity) : p;
  const fill = el("i");
  fill.style.width = `${Math.round(part * 100)}%`;
  const kind = p === null ? "" : p >= 0.5 ? "likely" : p >= 0.2 ? "possible" : "";
  return el("div", { className: `bar ${kind}`, "aria-hidden": "true" }, fill);
}
const verdict = (hit) => (hit.probability === null ? "not judged" : percent(hit.probability));
const why = (hit) =>
  `similar ${hit.similarity.toFixed(2)}` +
  (hit.hubness === null ? "" : `, to anyone ${hit.hubness.toFixed(2)}`) +
  (hit.match_logit === null ? "" : ` · match ${hit.match_logit.toFixed(1)}`);

/** Each phrase with its mark, its words and how likely it holds; between the bounds the model is nearly guessing. */
const phrases = (hit) => hit.phrases.map(({ text, probability: p, negated }) => {
  const [mark, said] = p >= 0.65 ? ["\u2713", "yes"] : p <= 0.35 ? ["\u2717", "no"] : ["?", "unsure"];
  return { mark, said, text: negated ? `no ${text}` : text, share: percent(p) };
});
const phraseMarks = (hit) => phrases(hit).map((p) => `${p.mark} ${p.text} ${p.share}`).join(" \u00b7 ");
/** The same without signs, for screen readers. */
const phraseWords = (hit) => phrases(hit).map((p) => `${p.text}: ${p.said}, ${p.share}`).join("; ");

// ---------------------------------------------------------------- token

function takeToken() {
  const behind = new URLSearchParams(location.hash.slice(1));
  const given = behind.get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    behind.delete("token");
    const rest = behind.size ? `#${behind}` : "";
    history.replaceState(null, "", location.pathname + location.search + rest);
  }
  token = sessionStorage.getItem("token") || "";
}

function askForToken(message) {
  $("signin-error").textContent = message;
  if (!$("signin").open) $("signin").showModal();
}

$("signin-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("signin-token").value.trim();
  sessionStorage.setItem("token", token);
  $("signin-token").value = "";
  $("signin").close();
  refresh();
});
$("signin").addEventListener("cancel", (event) => event.preventDefault());

// ---------------------------------------------------------------- cameras and health

async function refresh() {
  try {
    await Promise.all([refreshHealth(), refreshCameras()]);
  } catch (error) {
    if (!(error instanceof ApiError)) health("bad", "The server does not answer");
    else if (error.status !== 401) health("warn", error.message);
  }
}

function health(kind, text) {
  document.querySelector("#health .dot").className = `dot ${kind}`;
  if ($("health-text").textContent !== text) $("health-text").textContent = text;
}

async function refreshHealth() {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await (await fetch("/readyz", { headers })).json();
  ready = answer.ready === true;
  // Details are for callers with a token.
  const broken = (answer.checks ?? []).find((c) => !c.ok);
  if (ready) health(broken ? "warn" : "good", broken ? broken.detail : "Ready");
  else health("busy", broken ? `Not ready: ${broken.detail}` : "Not ready");
  $("go").disabled = !ready;
  showModel(answer.model);
}

function showModel(model) {
  if (!model) return;
  const p = model.provenance && typeof model.provenance === "object" ? model.provenance : {};
  const text = (v) => (typeof v === "string" ? v : Array.isArray(v) ? v.map(text).join(", ") : Object.entries(v ?? {})
    .map(([k, x]) => `${k.replaceAll("_", " ")} ${typeof x === "object" ? text(x) : x}`).join(", "));
  const parts = [`Model ${model.name || model.id} on ${model.device} (${model.dtype})`];
  const trained = p.trained_on ?? p.training_data ?? p.data;
  const quality = p.quality ?? p.results ?? p.metrics;
  parts.push(trained ? `trained on ${text(trained)}` : "its folder does not say what it was trained on");
  if (quality) parts.push(text(quality));
  if (p.note) parts.push(text(p.note));
  $("model").textContent = parts.join(" · ");
}

async function refreshCameras() {
  const answer = await json("GET", "/v1/cameras");
  cameras = answer.cameras;
  role = answer.role;
  $("manage").hidden = role !== "admin";
  const known = new Set(cameras.map((c) => c.id));
  chosen = new Set([...chosen].filter((id) => known.has(id)));
  showCameras();
  showCoverage();
  if ($("manager").open) showManager();
}

function detailOf(camera) {
  if (camera.state === "retrying" && camera.retry_in_s !== null) {
    return `${camera.reason ?? "connection lost"}; again in ${seconds(camera.retry_in_s)}`;
  }
  const dropped = camera.dropped_fraction > 0.01 ? `, ${percent(camera.dropped_fraction)} dropped` : "";
  if (camera.state === "searchable") return `${seconds(camera.lag_s)} behind${dropped}`;
  return (camera.reason ?? "") + dropped;
}

function showCameras() {
  const strip = $("cameras");
  // Buttons are reused, so that a refresh never takes the focus away.
  const old = new Map([...strip.children].map((b) => [b.dataset.id, b]));
  const buttons = cameras.map((camera) => {
    const [kind, word] = STATES[camera.state];
    const detail = detailOf(camera);
    const line = detail ? `${word} · ${detail}` : word;
    const button = old.get(camera.id) ?? el("button", { type: "button", className: "camera" },
      el("span"), el("b"), el("small"));
    button.dataset.id = camera.id;
    button.children[0].className = `dot ${kind}`;
    if (button.children[1].textContent !== camera.id) button.children[1].textContent = camera.id;
    if (button.children[2].textContent !== line) button.children[2].textContent = line;
    button.title = line;
    button.setAttribute("aria-pressed", chosen.has(camera.id));
    button.setAttribute("aria-label", `Camera ${camera.id}, ${line}`);
    return button;
  });
  if (buttons.length !== strip.children.length || buttons.some((b, i) => strip.children[i] !== b)) {
    strip.replaceChildren(...buttons);
  }
  if (!lastBody) welcome();
}

$("cameras").addEventListener("click", (event) => {
  const id = event.target.closest(".camera")?.dataset.id;
  if (!id) return;
  if (!chosen.delete(id)) chosen.add(id);
  showCameras();
  if (lastBody) search();
});

function showCoverage() {
  const parts = cameras.map((c) => {
    if (!c.searchable_through) return `${c.id}: nothing searchable yet`;
    const end = c.state === "ended" ? "complete" : c.lag_s === null ? "before this start" : `${seconds(c.lag_s)} behind`;
    return `${c.id} through ${day(c.searchable_through)} ${time(c.searchable_through)} (${end})`;
  });
  $("coverage").textContent = parts.length ? `Searchable: ${parts.join(" · ")}` : "";
}

// ---------------------------------------------------------------- searching

function body() {
  const wanted = {};
  const query = $("query").value.trim();
  if (query) wanted.query = query;
  if (like) wanted.like = like.sighting_id;
  if (chosen.size) wanted.cameras = [...chosen];
  const when = $("when").value;
  if (when === "between") {
    if ($("from").value) wanted.from = new Date($("from").value).toISOString();
    // To the end of the second that was chosen.
    if ($("to").value) wanted.to = new Date(new Date($("to").value).getTime() + 999).toISOString();
  } else if (when) {
    wanted.from = new Date(Date.now() - Number(when) * 60000).toISOString();
  }
  wanted.sort = $("sort").value;
  return wanted;
}

async function search(more = false) {
  if (!more) {
    lastBody = body();
    if (!lastBody.query && !lastBody.like) {
      // A search under way would answer to nobody's question.
      running?.abort();
      running = null;
      lastBody = null;
      return welcome();
    }
    const address = new URL(location.href);
    address.hash = lastBody.query ? `q=${encodeURIComponent(lastBody.query)}` : "";
    history.replaceState(null, "", address);
  }
  running?.abort();
  const mine = new AbortController();
  running = mine;
  $("message").replaceChildren();
  $("message").className = "message";
  $("more").disabled = true;
  if (!more) {
    hits = [];
    $("notice").hidden = true;
    $("more").hidden = true;
    $("found").textContent = "Searching…";
    $("grid").replaceChildren(...Array.from({ length: 6 }, () => el("li", { className: "skeleton", "aria-hidden": "true" })));
  }
  try {
    const answer = await json("POST", "/v1/search", more ? { cursor } : lastBody, mine.signal);
    if (running === mine) show(answer, more);
  } catch (error) {
    if (error.name !== "AbortError" && running === mine) failed(error, more);
  }
}

function show(answer, more) {
  const misses = answer.nearest_misses ?? [];
  const fresh = answer.results.length ? answer.results : misses;
  const first = hits.length;
  hits = more ? hits.concat(fresh) : fresh;
  cursor = answer.next_cursor;
  $("more").hidden = !cursor;
  $("more").disabled = false;
  const cards = fresh.map((hit, i) => card(hit, first + i, answer.confident));
  if (more) $("grid").append(...cards);
  else $("grid").replaceChildren(...cards);
  if (!more) forgetPictures(new Set([...hits.map((h) => h.thumbnail), like?.thumbnail]));
  if (more) cards[0]?.firstChild.focus();
  const took = `${(answer.timings_ms.total / 1000).toFixed(answer.timings_ms.total < 950 ? 2 : 1)} s`;
  const order = lastBody.sort === "time" ? "newest first" : "best match first";
  const people = `${hits.length}${cursor ? " or more" : ""} ${hits.length === 1 ? "person" : "people"}`;
  $("found").textContent = !hits.length ? "" : answer.confident === false ? `Nearest first · ${took}` : `${people}, ${order} · ${took}`;
  const notes = answer.degraded.map((d) => el("div", {}, d));
  const understood = [];
  if (answer.not_understood.length) {
    understood.push(`Not understood: ${answer.not_understood.map((n) => `${n.text} (${n.why})`).join(", ")}.`);
  }
  if (answer.nobody_fulfils.length) understood.push(`Nobody fulfils: ${answer.nobody_fulfils.join(", ")}.`);
  if (understood.length) notes.unshift(el("div", {}, understood.join(" ")));
  const judged = hits.some((hit) => hit.probability !== null);
  if (hits.length && answer.confident === null && !judged) {
    notes.unshift(el("strong", {}, "Nobody was judged."), el("div", {}, "The most similar are shown first."));
  }
  if (hits.length && answer.confident === false) {
    notes.unshift(el("strong", {}, "No confident match."), el("div", {}, "The model is sure of nobody here. Those nearest to the description are shown below; look before you believe it."));
  }
  $("notice").replaceChildren(...notes);
  $("notice").hidden = !notes.length;
  if (!hits.length) {
    message("Nobody found", chosen.size || $("when").value
      ? "Nothing was recorded at these cameras in this time. Widen the filters above."
      : "Nothing has been recorded yet. As soon as a camera is searchable, people appear here.");
  }
}

function failed(error, more) {
  if (more) {
    // What was found stays. An expired list cannot go on; anything else can be tried again.
    $("more").hidden = error.code === "invalid_cursor";
    $("more").disabled = false;
  } else {
    $("grid").replaceChildren();
    $("found").textContent = "";
    $("more").hidden = true;
  }
  if (error.status === 401) return;
  const text = error instanceof ApiError ? error.message : "The server does not answer. Is it still running?";
  const id = error.requestId ? ` (request ${error.requestId})` : "";
  const titles = { empty_query: "Describe the person", rate_limited: "Too many searches", busy: "Too many searches", forbidden: "Not allowed" };
  message(titles[error.code] ?? (more ? "There is no further page" : "The search failed"), text + id, "error");
}

function message(title, text, kind = "", ...rest) {
  $("message").className = `message ${kind}`;
  $("message").replaceChildren(el("h3", {}, title), el("p", {}, text), ...rest);
}

function welcome() {
  $("found").textContent = "";
  $("grid").replaceChildren();
  $("notice").hidden = true;
  $("more").hidden = true;
  if (!cameras.length) {
    return message("No cameras yet", role === "admin" ? "Add one with the button at the top right." : "An administrator can add one.");
  }
  const examples = ["a person in a red jacket", "a man with a backpack", "a woman in a white top and dark trousers"];
  message("Who are you looking for?", "Describe clothes, colours, hair and what the person carries, as you would on the radio.", "",
    el("div", { className: "examples" }, ...examples.map((text) => el("button", {
      type: "button", className: "quiet", onclick: () => { $("query").value = text; search(); },
    }, text))));
}

// ---------------------------------------------------------------- result grid

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    picture(target.dataset.path)
      .then((url) => target.replaceChildren(el("img", { src: url, alt: "" })))
      .catch(() => target.replaceChildren("picture not available"));
  }
}, { rootMargin: "300px" });

function card(hit, index, confident) {
  const frame = el("div", { className: "picture" });
  frame.dataset.path = hit.thumbnail;
  seen.observe(frame);
  const marks = phraseMarks(hit);
  const label = `${hit.probability === null ? why(hit) : `${verdict(hit)} match`}, ${marks ? `${phraseWords(hit)}, ` : ""}camera ${hit.camera}, ${day(hit.captured_at)} ${time(hit.captured_at)}`;
  const button = el("button", { type: "button", className: "card", tabIndex: index ? -1 : 0, "aria-label": label,
    onclick: () => showDetail(index) },
    frame,
    el("div", { className: "card-text" },
      el("div", { className: "card-line" }, el("b", {}, hit.camera), el("span", { className: "percent" }, verdict(hit))),
      bar(hit),
      marks ? el("small", { className: "phrases" }, marks) : null,
      el("small", {}, `${day(hit.captured_at)} ${time(hit.captured_at)}`),
      el("small", {}, why(hit))));
  return el("li", { className: confident === false ? "miss" : "" }, button);
}

/** Roving focus: one card is in the tab order, arrows move it. */
function focusCard(index) {
  const cards = [...document.querySelectorAll(".card")];
  if (!cards.length) return;
  const to = Math.min(Math.max(index, 0), cards.length - 1);
  cards.forEach((c, i) => { c.tabIndex = i === to ? 0 : -1; });
  cards[to].focus();
}

$("grid").addEventListener("keydown", (event) => {
  const cards = [...document.querySelectorAll(".card")];
  const at = cards.indexOf(document.activeElement);
  if (at < 0) return;
  const columns = Math.max(1, getComputedStyle($("grid")).gridTemplateColumns.split(" ").length);
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: cards.length };
  if (!(event.key in steps)) return;
  event.preventDefault();
  if (event.key === "ArrowUp" && at < columns) $("query").focus();
  else focusCard(at + steps[event.key]);
});

// ---------------------------------------------------------------- the rest of the wiring

$("search").addEventListener("submit", (event) => { event.preventDefault(); search(); });
$("more").addEventListener("click", () => search(true));
$("sort").addEventListener("change", () => lastBody && search());
$("when").addEventListener("change", () => {
  $("between").hidden = $("when").value !== "between";
  if (lastBody && $("when").value !== "between") search();
});
for (const id of ["from", "to"]) $(id).addEventListener("change", () => lastBody && search());
$("query").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" && hits.length) { event.preventDefault(); focusCard(0); }
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea") || document.querySelector("dialog[open]");
  if (event.key === "/" && !typing) { event.preventDefault(); $("query").focus(); $("query").select(); }
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());

async function start() {
  takeToken();
  $("zone").textContent = `· times are local (${Intl.DateTimeFormat().resolvedOptions().timeZone})`;
  $("go").disabled = true;
  await refresh();
  const query = new URLSearchParams(location.hash.slice(1)).get("q");
  if (query) { $("query").value = query; if (ready) search(); }
  $("query").focus();
  setInterval(() => document.hidden || refresh(), REFRESH_MS);
}
// The address of a new start, opened in the same tab, changes what is behind # and loads nothing.
addEventListener("hashchange", () => {
  const before = token;
  takeToken();
  if (token !== before) refresh();
});
document.addEventListener("DOMContentLoaded", start);
