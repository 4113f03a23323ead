// Keeps the parts of a page that are marked `data-live` up to date: when the service says that something has changed
// (`data-events`), or every so many seconds (`data-poll`). The page itself is asked for again, so what is shown is what
// the service makes of it.
import { morph } from "./morph.js";

const QUIET = 1000; // milliseconds between two looks at least, and more where a look takes long
const SHARE = 5; // of the time at most one part in so many is spent looking
const PATIENCE = 5000; // until the next try when the service does not answer
const SLOWLY = 30_000; // between two looks at a page whose events cannot be followed

let busy = false;
let again = false;
let last = 0;
let quiet = QUIET;
let timer = 0;
let how = "live";
let stopped = false; // for good, as nobody is signed in any more

export function startLive() {
  const main = document.getElementById("main");
  const { events, poll } = main.dataset;
  if (events) follow(events);
  if (poll) repeat(Number(poll) * 1000);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && (events || poll)) refresh();
  });
}

function repeat(pause) {
  tell("live");
  setInterval(() => {
    if (!document.hidden && document.getElementById("main").dataset.poll) refresh();
  }, pause);
}

/** Follow events while the page is seen: browsers have few connections to one host, and hidden pages must not hold them. */
function follow(url) {
  let source = null;
  let over = false;
  let retry = 0;
  const open = () => {
    if (source || over || stopped || document.hidden || !document.getElementById("main").dataset.events) return;
    source = new EventSource(url);
    source.onopen = () => {
      how = "live";
      tell(how);
    };
    source.onerror = () => {
      // A browser tries again by itself, but not after an answer that is an error.
      if (source?.readyState !== EventSource.CLOSED) return tell("connecting …", true);
      close();
      how = `every ${SLOWLY / 1000} s, as too many pages follow jobs`;
      refresh(); // which tells whether it is that, or nobody is signed in, or the service is away
      clearTimeout(retry);
      retry = setTimeout(open, SLOWLY);
    };
    for (const kind of ["state", "containers", "waiting"]) source.addEventListener(kind, refresh);
    source.addEventListener("end", () => {
      over = true;
      close();
      refresh();
      tell("over");
    });
  };
  const close = () => {
    source?.close();
    source = null;
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
}

/** Look at the page again, soon, and not too often. */
export function refresh() {
  if (stopped) return;
  if (busy) {
    again = true;
    return;
  }
  clearTimeout(timer);
  timer = setTimeout(look, Math.max(0, last + quiet - Date.now()));
}

async function look() {
  busy = true;
  last = Date.now();
  try {
    const answer = await fetch(here(), { headers: { Accept: "text/html" }, cache: "no-store" });
    if (answer.status === 401 || answer.redirected) return ended();
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    take(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    tell("the service does not answer", true);
    setTimeout(refresh, PATIENCE);
  } finally {
    busy = false;
    quiet = Math.max(QUIET, SHARE * (Date.now() - last));
    if (again) {
      again = false;
      refresh();
    }
  }
}

/** This page, without what is asked of a site's engine: that is for one look only. */
function here() {
  const url = new URL(location.href);
  url.searchParams.delete("runner");
  return url;
}

function take(fresh) {
  document.title = fresh.title;
  const main = document.getElementById("main");
  // A page that has nothing more to wait for stops asking.
  for (const kind of ["poll", "events"]) if (!fresh.getElementById("main").dataset[kind]) delete main.dataset[kind];
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (!other || part.isEqualNode(other)) continue;
    const before = part.dataset.announce;
    morph(part, other);
    if (part.dataset.announce !== before) say(`State: ${part.dataset.announce}`);
  }
  tell(main.dataset.poll || main.dataset.events ? how : "over");
  document.dispatchEvent(new Event("cts:changed"));
}

function ended() {
  stopped = true;
  tell("signed out; sign in again to go on", true);
  say("You are signed out");
}

function say(words) {
  document.getElementById("announce").textContent = words;
}

function tell(words, off = false) {
  const place = document.getElementById("live-state");
  place.hidden = false;
  place.textContent = words;
  place.classList.toggle("off", off);
}
