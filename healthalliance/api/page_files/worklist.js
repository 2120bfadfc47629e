// The worklist: asks the API, shows what it answers, and asks again when it says that something changed.
import { WORDS } from "./words.js";

const ASK_AT_MOST_EVERY_MS = 1000;
const SNOOZES_H = [1, 8, 24, 72];
const AWAY_AFTER_MS = 40_000; // the API says something every 15 s

const $ = (selector, inside = document) => inside.querySelector(selector);
const state = { language: "en", entries: [], more: false, model: null, open: null, events: null, asked: 0, timer: null, asking: false, again: false };

const word = (name, ...given) => {
  const said = WORDS[state.language][name];
  return typeof said === "function" ? said(...given) : said ?? name;
};
const percent = (p) => new Intl.NumberFormat(state.language, { style: "percent", maximumFractionDigits: 0 }).format(p);
const points = (p) => new Intl.NumberFormat(state.language, { minimumFractionDigits: 1, maximumFractionDigits: 1, signDisplay: "always" }).format(100 * p);
const when = (text) => new Intl.DateTimeFormat(state.language, { dateStyle: "medium", timeStyle: "short" }).format(new Date(text));
const day = (text) => new Intl.DateTimeFormat(state.language, { dateStyle: "medium" }).format(new Date(text));

function make(tag, given = {}, ...inside) {
  const { class: className, dataset = {}, on = {}, ...rest } = given;
  const element = document.createElement(tag);
  if (className) element.className = className;
  Object.assign(element.dataset, dataset);
  for (const [name, value] of Object.entries(rest)) element.setAttribute(name, value);
  for (const [name, act] of Object.entries(on)) element.addEventListener(name, act);
  element.append(...inside.filter((one) => one !== null));
  return element;
}

function draw(tag, given, ...inside) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(given)) element.setAttribute(name, value);
  element.append(...inside);
  return element;
}

// --- asking

async function ask(path, { method = "GET", body } = {}) {
  const response = await fetch(path, {
    method,
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body ? JSON.stringify(body) : undefined,
    cache: "no-store",
    signal: AbortSignal.timeout(20_000),
  });
  if (response.status === 401) {
    showSignIn();
    throw new Error("signed out");
  }
  if (!response.ok) throw Object.assign(new Error(String(response.status)), { status: response.status });
  return response.status === 204 ? null : response.json();
}

function query() {
  const form = new FormData($("#filters"));
  const asked = new URLSearchParams({ language: state.language, days: form.get("days"), quiet: form.has("quiet") });
  for (const band of form.getAll("band")) asked.append("band", band);
  if (form.has("inpatient")) asked.set("inpatient", "true");
  asked.set("order", form.get("order") === "newest" ? "newest" : "risk");
  return asked;
}

async function refresh() {
  if (state.asking) {
    state.again = true;
    return;
  }
  state.asking = true;
  state.asked = Date.now();
  $("#entries").setAttribute("aria-busy", "true");
  try {
    const noBand = !new FormData($("#filters")).has("band");
    const found = noBand ? { entries: [], more: false } : await ask(`/api/v1/worklist?${query()}`);
    state.entries = found.entries;
    state.more = found.more;
    if (found.institution) $("#institution").textContent = found.institution.toUpperCase();
    if ($("#filters").order.value === "change") state.entries.sort((a, b) => change(b) - change(a));
    showEntries();
    if (state.open) await showDetails(state.open, false);
  } catch (error) {
    if (error.message !== "signed out") say("away");
  } finally {
    state.asking = false;
    $("#entries").setAttribute("aria-busy", `${state.again}`);
    if (state.again) {
      state.again = false;
      refresh(); // asked for by a person meanwhile; what the API says waits for its turn in soon()
    }
  }
}

function soon() {
  clearTimeout(state.timer);
  state.timer = setTimeout(refresh, Math.max(0, state.asked + ASK_AT_MOST_EVERY_MS - Date.now()));
}

function watch() {
  state.events?.close();
  const events = new EventSource("/api/v1/worklist/events");
  state.events = events;
  let quiet;
  const heard = () => {
    say("live");
    clearTimeout(quiet);
    quiet = setTimeout(() => say("away"), AWAY_AFTER_MS);
  };
  events.addEventListener("open", heard);
  events.addEventListener("still", heard);
  events.addEventListener("changed", () => {
    heard();
    soon();
  });
  events.addEventListener("error", () => {
    say("away");
    // A closed one was refused: signed out, or too many watch.
    if (events.readyState === EventSource.CLOSED) setTimeout(() => refresh().then(() => state.events === events && watch()), 5000);
  });
}

// --- showing

function say(name) {
  const status = $("#status");
  status.dataset.state = name;
  if (status.textContent !== word(name)) status.textContent = word(name);
}

function change(entry) {
  const known = entry.trend.filter((point) => point.probability !== null);
  return known.length < 2 ? 0 : known.at(-1).probability - known.at(-2).probability;
}

function showWords() {
  document.documentElement.lang = state.language;
  document.title = `${word("title")} – HealthAlliance`;
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
  $("#language").value = state.language;
}

function showSignIn() {
  state.events?.close();
  state.events = null;
  $("#details").close();
  $("#worklist").hidden = $("#sign-out").hidden = true;
  $("#status").textContent = $("#institution").textContent = "";
  $("#entries").replaceChildren();
  state.entries = [];
  $("#sign-in").hidden = false;
  $("#key").focus();
}

function showEntries() {
  const list = $("#entries");
  const held = document.activeElement?.closest?.("#entries [data-focus]");
  const kept = held && [held.closest("li").id, held.dataset.focus];
  list.replaceChildren(...state.entries.map(entryItem));
  if (kept) ($(`[data-focus="${kept[1]}"]`, document.getElementById(kept[0]) ?? list) ?? list.querySelector("button"))?.focus();
  $("#count").textContent = state.entries.length ? word("count", state.entries.length, state.more) : word("none");
}

function entryItem(entry) {
  const who = entry.patient ?? word("unknownPatient");
  return make("li", { class: `entry ${entry.band}`, id: `e-${entry.encounter_pseudonym}` },
    make("div", { class: "risk" }, make("strong", {}, percent(entry.probability)), make("span", { class: `band ${entry.band}` }, word(entry.band))),
    make("div", { class: "who" },
      make("h2", {}, make("button", { type: "button", class: "open", dataset: { focus: "open" }, on: { click: () => showDetails(entry.encounter_pseudonym) } }, who)),
      make("p", {}, [entry.encounter, stay(entry.stay), entry.age_band && word("age", entry.age_band)].filter(Boolean).join(" · ")),
      make("p", { class: "minor" }, word("scored", when(entry.scored_at)))),
    reasons(entry), sparkline(entry), actions(entry));
}

function stay({ inpatient, admitted_at, discharged_at }) {
  const parts = [word(inpatient ? "inpatient" : "outpatient")];
  if (admitted_at) parts.push(word("admitted", day(admitted_at)));
  if (admitted_at && discharged_at) parts.push(word("days", Math.max(1, Math.round((new Date(discharged_at) - new Date(admitted_at)) / 86_400_000))));
  return parts.join(", ");
}

function reasons(entry) {
  const largest = Math.max(0.01, ...entry.reasons.map((one) => Math.abs(one.points)));
  return make("ul", { class: "reasons", "aria-label": word("reasons") },
    ...entry.reasons.map((one) => {
      const bar = make("span", { class: `bar ${one.points > 0 ? "up" : "down"}`, "aria-hidden": "true" });
      bar.style.setProperty("--part", Math.abs(one.points) / largest);
      return make("li", {}, make("span", { class: "text" }, one.text), bar,
        make("span", { class: "points" }, points(one.points), make("span", { class: "unseen" }, ` ${word("points")}`)));
    }));
}

function sparkline(entry) {
  const known = entry.trend.filter((point) => point.probability !== null);
  if (known.length < 2) return make("p", { class: "trend minor" }, word("first"));
  const [width, height, edge] = [110, 32, 3];
  const top = Math.max(0.1, ...known.map((point) => point.probability));
  const at = known.map((point, n) => [edge + (n * (width - 2 * edge)) / (known.length - 1), height - edge - (point.probability / top) * (height - 2 * edge)]);
  const label = word("trend", percent(known[0].probability), percent(known.at(-1).probability), known.length);
  return make("div", { class: "trend" },
    draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
      draw("polyline", { points: at.map((xy) => xy.map((n) => n.toFixed(1)).join(",")).join(" ") }),
      draw("circle", { cx: at.at(-1)[0], cy: at.at(-1)[1], r: 2.5 })),
    make("span", { class: "minor" }, points(change(entry))));
}

function actions(entry) {
  const path = `/api/v1/worklist/${entry.encounter_pseudonym}`;
  const asleep = entry.mark.snoozed_until && new Date(entry.mark.snoozed_until) > new Date();
  const button = (name, focus, act) => make("button", { type: "button", dataset: { focus }, on: { click: () => act() } }, word(name));
  const choice = make("select", { "aria-label": word("snooze"), dataset: { focus: "snooze" } },
    make("option", { value: "" }, word("snooze")),
    ...SNOOZES_H.map((hours) => make("option", { value: hours }, hours < 24 ? word("hours", hours) : word("snoozeDays", hours / 24))));
  choice.addEventListener("change", () => act(path, "snooze", "PUT", { until: new Date(Date.now() + choice.value * 3_600_000).toISOString() }));
  return make("div", { class: "actions" },
    ...(entry.mark.acknowledged
      ? [make("span", { class: "minor" }, word("acknowledged", when(entry.mark.acknowledged_at))), button("takeBack", "acknowledge", () => act(path, "acknowledgement", "DELETE"))]
      : [button("acknowledge", "acknowledge", () => act(path, "acknowledgement", "PUT", { record_id: entry.record_id }))]),
    ...(asleep
      ? [make("span", { class: "minor" }, word("snoozed", when(entry.mark.snoozed_until))), button("wake", "snooze", () => act(path, "snooze", "DELETE"))]
      : [choice]));
}

async function act(path, what, method, body) {
  try {
    await ask(`${path}/${what}`, { method, body });
    await refresh();
  } catch (error) {
    if (error.message !== "signed out") $("#count").textContent = word("failed");
  }
}

async function showDetails(encounter, opening = true) {
  const [entry, model] = await Promise.all([
    ask(`/api/v1/worklist/${encounter}?language=${state.language}`), state.model ?? ask("/api/v1/model"),
  ]).catch(() => [null, null]);
  if (!entry) return $("#details").close();
  state.model = model;
  const why = await ask(`/api/v1/scores/${entry.record_id}/explanation?language=${state.language}`);
  if (!opening && state.open !== encounter) return;
  state.open = encounter;
  $("#details article").replaceChildren(
    make("h2", { id: "details-title" }, entry.patient ?? word("unknownPatient")),
    make("p", {}, [entry.encounter, stay(entry.stay), entry.age_band && word("age", entry.age_band)].filter(Boolean).join(" · ")),
    make("p", { class: `headline ${entry.band}` }, why.headline), sparkline(entry), actions(entry),
    make("h3", {}, word("explanation")), make("ol", { class: "why" }, ...why.steps.map((step) => make("li", {}, step.sentence))),
    make("h3", {}, word("history")), versions(entry), make("h3", {}, word("model")), card(entry, model));
  if (opening && !$("#details").open) $("#details").showModal();
}

function versions(entry) {
  const row = (point) => make("tr", {}, make("td", {}, when(point.scored_at)),
    make("td", {}, point.probability === null ? word("takenBack") : `${percent(point.probability)} ${word(point.band)}`),
    make("td", {}, word(point.reason ?? "new")));
  return make("table", {},
    make("thead", {}, make("tr", {}, ...["time", "risk", "why"].map((name) => make("th", { scope: "col" }, word(name))))),
    make("tbody", {}, ...entry.trend.toReversed().map(row)));
}

function card(entry, model) {
  const facts = [
    ["version", `${model.name} ${entry.model_version}`], ["digest", model.version === entry.model_version ? model.digest : "–"], ["calibration", model.calibration],
    ["thresholds", `${word("from", word("medium"), percent(model.medium_from))}, ${word("from", word("high"), percent(model.high_from))}`],
    ["features", model.features.join(", ")], ["record", entry.record_id],
  ];
  return make("dl", {}, ...facts.flatMap(([name, text]) => [make("dt", {}, word(name)), make("dd", {}, text)]));
}

// --- acting

async function begin() {
  $("#sign-in").hidden = true;
  $("#worklist").hidden = $("#sign-out").hidden = false;
  say("asking");
  await refresh();
  if (!$("#sign-in").hidden) return;
  watch();
  await openLinked();
}

// Alerts link to an encounter: the page's address, # and its pseudonym.
async function openLinked() {
  const encounter = location.hash.slice(1);
  if (/^[0-9a-f-]{36}$/.test(encounter) && $("#sign-in").hidden) await showDetails(encounter);
}

$("#sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const problem = $("#sign-in-problem");
  problem.textContent = "";
  const response = await fetch("/session", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ key: $("#key").value.trim() }) }).catch(() => null);
  if (response?.ok) {
    $("#key").value = "";
    await begin();
  } else {
    problem.textContent = word(response?.status === 429 ? "tooMany" : response ? "wrongKey" : "away");
    $("#key").focus();
  }
});

$("#sign-out").addEventListener("click", async () => {
  await fetch("/session", { method: "DELETE" });
  showSignIn();
});

window.addEventListener("hashchange", openLinked);
$("#filters").addEventListener("change", refresh);
$("#filters").addEventListener("submit", (event) => event.preventDefault());

$("#language").addEventListener("change", async () => {
  state.language = $("#language").value;
  localStorage.setItem("language", state.language);
  showWords();
  if (!$("#worklist").hidden) {
    say("live");
    await refresh();
  }
});

$("#details").addEventListener("close", () => {
  const from = state.open;
  state.open = null;
  $("button.open", document.getElementById(`e-${from}`) ?? document.createElement("p"))?.focus();
});
$("#close").addEventListener("click", () => $("#details").close());

// Up and down lead from one encounter to the next.
$("#entries").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || event.target.tagName === "SELECT") return;
  const all = [...document.querySelectorAll("button.open")];
  const here = all.indexOf($("button.open", event.target.closest("li.entry")));
  event.preventDefault();
  all[here + step]?.focus();
});

state.language = localStorage.getItem("language") ?? (navigator.language.startsWith("de") ? "de" : "en");
showWords();
fetch("/api/v1/model", { cache: "no-store" }).then(
  (response) => (response.status === 401 ? showSignIn() : begin()),
  () => say("away"),
);
