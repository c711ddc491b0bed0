// The console's script: every page can be read without it. It shows times in the reader's zone, refreshes a visible page,
// and adds shortcuts.

const FASTEST = 2_000, SLOWEST = 30_000; // milliseconds between two refreshes: while things change, when nothing does
const ANNOUNCED = 10_000; // milliseconds between two announcements to screen readers, at least

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

// -- times

const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

function zone() {
  const name = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const minutes = -new Date().getTimezoneOffset(), [hours, rest] = [Math.floor(Math.abs(minutes) / 60), Math.abs(minutes) % 60];
  const offset = `UTC${minutes < 0 ? "-" : "+"}${hours}${rest ? `:${String(rest).padStart(2, "0")}` : ""}`;
  return !name || name === "UTC" ? (minutes ? offset : "UTC") : `${name} (${offset})`;
}

function localize(within) {
  const today = new Date().toDateString();
  for (const time of $$("time[datetime]", within)) {
    const at = new Date(time.dateTime);
    if (isNaN(at)) continue;
    time.textContent = (at.toDateString() === today ? CLOCK : DAY).format(at);
    time.title = time.dateTime;
  }
  tick(within);
}

function span(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  for (const [size, name, part, partName] of [[86400, "d", 3600, "h"], [3600, "h", 60, "m"], [60, "m", 1, "s"]])
    if (seconds >= size)
      return `${Math.floor(seconds / size)} ${name} ${String(Math.floor((seconds % size) / part)).padStart(2, "0")} ${partName}`;
}

function tick(within = document) {
  for (const one of $$("[data-since]", within)) {
    const text = `${span((Date.now() - Date.parse(one.dataset.since)) / 1000)} so far`;
    if (one.textContent !== text) one.textContent = text;
  }
}

// -- refreshing: each region marked data-live becomes like that of the server's page

function same(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "");
}

function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (old.isEqualNode(fresh)) return;
  const kept = keptOf(old, fresh);
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !kept.has(name)) old.removeAttribute(name);
  for (const { name, value } of [...fresh.attributes])
    if (old.getAttribute(name) !== value && !kept.has(name)) old.setAttribute(name, value);
  const ids = new Set([...fresh.children].map((one) => one.id)), byId = new Map();
  for (const one of [...old.children].filter((one) => one.id)) ids.has(one.id) ? byId.set(one.id, one) : one.remove();
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    let match = next.id ? byId.get(next.id) : at && same(at, next) ? at : null;
    if (match && same(match, next)) {
      while (at !== match && at?.nodeType === Node.TEXT_NODE) at = drop(at); // moving the match would lose its focus
      if (match === at) at = at.nextSibling;
      else old.insertBefore(match, at);
      morph(match, next);
    } else {
      const made = document.importNode(next, true);
      if (made.nodeName === "TR") made.classList.add("fresh");
      old.insertBefore(made, at);
    }
  }
  while (at) at = drop(at);
}

function drop(one) {
  const next = one.nextSibling;
  one.remove();
  return next;
}

// Attributes that are the reader's, such as what is unfolded: the server does not know them.
function keptOf(old, fresh) {
  const kept = new Set();
  if (old.nodeName === "DETAILS") kept.add("open");
  if (old.nodeName === "TR") kept.add("tabindex").add("hidden").add("class");
  if (old.hasAttribute("aria-expanded") && fresh.hasAttribute("aria-expanded")) kept.add("aria-expanded");
  return kept;
}

// The text of a region without what changes with time alone.
function textOf(region) {
  const copy = region.cloneNode(true);
  for (const one of $$("time, svg, [data-since]", copy)) one.textContent = "…";
  return copy.textContent.replace(/\d\d:\d\d/g, "…");
}

const live = { tag: null, wait: FASTEST, timer: 0, paused: false, busy: false, failed: false, announced: 0 };

function state(text) {
  const shown = $("#live-state");
  if (live.paused) text = "Paused";
  if (shown && shown.textContent !== text) shown.textContent = text;
}

function announce(text) {
  if (Date.now() - live.announced < ANNOUNCED) return;
  live.announced = Date.now();
  $("#announce").textContent = text;
}

function plan() {
  clearTimeout(live.timer);
  if (live.paused || document.hidden || !$("[data-live]")) return;
  live.timer = setTimeout(refresh, live.wait);
}

function selecting(region) {
  const selected = document.getSelection();
  return selected && !selected.isCollapsed && selected.anchorNode && region.contains(selected.anchorNode);
}

async function refresh() {
  if (live.busy || !$("[data-live]")) return;
  live.busy = true;
  try {
    const answer = await fetch(location.href, {
      headers: live.tag ? { "If-None-Match": live.tag } : {},
      cache: "no-store",
      credentials: "same-origin",
      redirect: "manual",
    }).catch(() => null);
    const text = answer?.ok ? await answer.text().catch(() => null) : null;
    const fault = problem(answer, text);
    if (fault) {
      live.wait = Math.min(live.wait * 2, SLOWEST);
      announce(fault);
    } else {
      if (text === null || !take(answer.headers.get("ETag"), text)) live.wait = Math.min(live.wait * 1.5, SLOWEST);
      if (live.failed) announce("The page is live again.");
    }
    live.failed = Boolean(fault);
    state(fault || "Live");
  } finally {
    live.busy = false;
    plan();
  }
}

function problem(answer, text) {
  if (answer?.status === 401 || answer?.type === "opaqueredirect") return "Signed out: reload the page";
  if (!answer || (answer.ok && text === null)) return "Not live: the server does not answer";
  if (!answer.ok && answer.status !== 304) return `Not live: the server answers ${answer.status}`;
}

function take(tag, text) {
  const first = live.tag === null;
  live.tag = tag;
  if (!swap(text)) return live.tag === null; // a region was left as it is: refresh soon
  live.wait = FASTEST;
  if (!first) announce("The page has changed.");
  return true;
}

function swap(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  localize(fresh);
  let swapped = false, changed = false;
  const scrolled = [scrollX, scrollY];
  for (const region of $$("[data-live]")) {
    const next = fresh.getElementById(region.id);
    if (!next || region.isEqualNode(next)) continue;
    if (selecting(region)) {
      live.tag = null; // the reader is selecting text in it: leave it, and refresh again
      continue;
    }
    const focused = region.contains(document.activeElement) ? document.activeElement : null;
    changed ||= textOf(region) !== textOf(next);
    morph(region, next);
    if (focused && focused !== document.activeElement)
      (focused.isConnected ? focused : document.getElementById(focused.id) || $("#main")).focus({ preventScroll: true });
    swapped = true;
  }
  if (swapped) {
    document.title = fresh.title;
    scrollTo(...scrolled);
    for (const tree of $$("[data-tree]")) fold(tree);
    reach();
  }
  return changed;
}

function pause(on = !live.paused) {
  live.paused = on;
  $("#pause").setAttribute("aria-pressed", String(on));
  state("Live");
  clearTimeout(live.timer);
  if (!on) again();
}

function again() {
  live.wait = FASTEST;
  clearTimeout(live.timer);
  refresh();
}

// -- trees

const level = (row) => Number(row.getAttribute("aria-level") || 1);

function fold(tree) {
  let closed = Infinity;
  for (const row of $$("tbody tr", tree)) {
    const at = level(row);
    if (at <= closed) closed = Infinity;
    row.hidden = at > closed;
    if (closed === Infinity && row.getAttribute("aria-expanded") === "false") closed = at;
  }
}

function unfold(row, open) {
  if (!row.hasAttribute("aria-expanded")) return false;
  if (row.getAttribute("aria-expanded") === String(open)) return false;
  row.setAttribute("aria-expanded", String(open));
  fold(row.closest("[data-tree]"));
  reach();
  return true;
}

function toParent(row) {
  for (let one = row.previousElementSibling; one; one = one.previousElementSibling)
    if (level(one) < level(row)) return focusRow(one);
}

// -- the keyboard

const rows = () => $$("[data-rows] tbody tr, [data-tree] tbody tr").filter((row) => !row.hidden);
const currentRow = () => document.activeElement?.closest?.("[data-rows] tbody tr, [data-tree] tbody tr");

// Exactly one row is in the tab order.
function reach(row = rows().find((one) => one.tabIndex === 0) || rows()[0]) {
  for (const one of $$("tr[tabindex='0']")) if (one !== row) one.tabIndex = -1;
  if (row) row.tabIndex = 0;
}

function focusRow(row) {
  if (!row) return;
  reach(row);
  row.focus();
}

function step(by) {
  const all = rows();
  if (!all.length) return false;
  const at = all.indexOf(currentRow());
  focusRow(at < 0 ? all[by > 0 ? 0 : all.length - 1] : all[Math.min(Math.max(at + by, 0), all.length - 1)]);
  return true;
}

const PLACES = { o: 0, t: 1, e: 2, n: 3, w: 4 };
const SINGLE = "celery-asynctask.single-keys"; // local storage: whether single-key shortcuts are off
const single = $("#single-keys");
let going = 0;

function help() {
  for (const one of $$("#help [data-needs]")) one.hidden = !$(one.dataset.needs);
  $("#help").showModal();
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const inside = event.target.closest("input, textarea, select, [contenteditable]");
  if (inside) {
    if (event.key === "Escape") inside.blur();
    return;
  }
  if ($("dialog[open]") || (event.key.length === 1 && !single.checked)) return;
  const row = currentRow();
  if (Date.now() - going < 1500 && event.key in PLACES) {
    going = 0;
    location.href = $$(".top nav a")[PLACES[event.key]].href;
    return;
  }
  const done = {
    "/": () => ($("#search") ? ($("#search").focus(), $("#search").select(), true) : false),
    "?": () => (help(), true),
    ArrowDown: () => row && step(1),
    ArrowUp: () => row && step(-1),
    j: () => step(1),
    k: () => step(-1),
    Home: () => row && (focusRow(rows()[0]), true),
    End: () => row && (focusRow(rows().at(-1)), true),
    Enter: () => event.target === row && $("a[href]", row) && ($("a[href]", row).click(), true),
    ArrowRight: () => row?.closest("[data-tree]") && (unfold(row, true) || step(1), true),
    ArrowLeft: () => row?.closest("[data-tree]") && (unfold(row, false) || toParent(row), true),
    r: () => (again(), true),
    p: () => (pause(), true),
    g: () => ((going = Date.now()), true),
  }[event.key];
  if (done && done()) event.preventDefault();
}

// -- start

localize(document);
$("#zone").textContent = zone();
for (const one of $$(".js-only")) one.hidden = false;
for (const tree of $$("[data-tree]")) {
  fold(tree);
  tree.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && event.target.closest("[data-fold]")) unfold(row, row.getAttribute("aria-expanded") === "false");
  });
}
reach();
const code = $("[data-code]") && /^#code=([\w-]+)$/.exec(location.hash);
if (code) {
  $("[data-code]").value = code[1];
  history.replaceState(null, "", location.pathname + location.search); // so that it is not kept with the address
  $("main form button").focus();
}
try {
  single.checked = localStorage.getItem(SINGLE) !== "off";
} catch {} // no local storage: the shortcuts stay on
single.addEventListener("change", () => {
  try {
    localStorage.setItem(SINGLE, single.checked ? "on" : "off");
  } catch {}
});
if (!$("[data-live]")) $(".live > span").hidden = $("#pause").hidden = true;
document.addEventListener("keydown", key);
$("#pause").addEventListener("click", () => pause());
$("#help-open").addEventListener("click", help);
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(live.timer) : live.paused || again()));
addEventListener("focus", () => live.paused || document.hidden || again());
setInterval(() => document.hidden || tick(), 1000);
plan();
