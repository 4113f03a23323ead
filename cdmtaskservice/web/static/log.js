// A container's log as it comes. The page holds the end of it only, however long it grows.

const MOST = 1_000_000; // characters
const LINES = 5000;
const PAUSE = 2000; // milliseconds until the next try

export function startLog() {
  const place = document.querySelector("[data-log]");
  if (place) new Log(place).run();
}

class Log {
  constructor(place) {
    this.place = place;
    this.state = document.getElementById("log-state");
    this.button = document.getElementById("follow");
    this.parts = []; // { node, length, lines }
    this.length = 0;
    this.lines = 0;
    this.waiting = "";
    this.position = null; // bytes of the log that are known
    this.attempt = null;
    this.cut = false;
    this.shown = false;
    this.following = true;
    this.stop = null; // ends what is being read
    // A hidden page holds no connection, as browsers have few; it goes on where it was.
    document.addEventListener("visibilitychange", () => document.hidden && this.stop?.abort());
    this.button.hidden = false;
    this.button.addEventListener("click", () => this.follow(!this.following));
    place.addEventListener("scroll", () => this.scrolled());
  }

  async run() {
    for (;;) {
      await seen();
      this.stop = new AbortController();
      this.tell("reading …");
      try {
        const answer = await this.ask();
        const over = answer.headers.get("CTS-Container-Over") === "yes";
        if (!over) this.tell("live: more is shown as it is written");
        await this.read(answer, over);
        if (over) return this.tell(this.shown ? "This is the end of it." : "It is empty.");
      } catch (error) {
        if (error instanceof Refusal) return this.tell(error.message);
        if (this.stop.signal.aborted) continue;
        this.tell("The connection is broken; trying again …");
      }
      await new Promise((done) => setTimeout(done, PAUSE));
    }
  }

  async ask() {
    const seek = this.position === null ? "" : `?seek=${this.position}`;
    const answer = await fetch(this.place.dataset.log + seek, {
      headers: { Accept: "text/plain" },
      cache: "no-store",
      signal: this.stop.signal,
    });
    if (answer.status >= 500) throw new Error("away");
    const missing = answer.headers.has("CTS-Log-Missing");
    if (!answer.ok || answer.redirected || missing) throw new Refusal(await refusal(answer));
    const attempt = answer.headers.get("CTS-Log-Attempt");
    const offset = Number(answer.headers.get("CTS-Log-Offset"));
    if (this.attempt !== null && this.attempt !== attempt) {
      this.position = null;
      this.attempt = null;
      this.empty();
      this.show(`[attempt ${attempt} begins]\n`);
      await answer.body?.cancel();
      return this.ask();
    }
    if (offset > (this.position ?? 0)) this.cut = true;
    this.attempt = attempt;
    this.position = offset;
    return answer;
  }

  async read(answer, over) {
    // What is over is no longer than what the page holds.
    if (over) return this.show(await answer.text());
    const decoder = new TextDecoder();
    const reader = answer.body.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      this.position += value.byteLength;
      this.show(decoder.decode(value, { stream: true }));
    }
    this.show(decoder.decode());
  }

  show(text) {
    if (!text) return;
    this.shown = true;
    if (!this.waiting) requestAnimationFrame(() => this.flush());
    this.waiting = (this.waiting + text).slice(-MOST);
  }

  flush() {
    const text = this.waiting;
    this.waiting = "";
    const node = document.createTextNode(text);
    const part = { node, length: text.length, lines: text.split("\n").length - 1 };
    this.place.append(node);
    this.parts.push(part);
    this.length += part.length;
    this.lines += part.lines;
    while (this.length > MOST || this.lines > LINES) this.shorten();
    if (this.following) this.place.scrollTop = this.place.scrollHeight;
  }

  /** Drop the oldest part, or of the only one what is too much. */
  shorten() {
    this.cut = true;
    const first = this.parts[0];
    if (this.parts.length > 1) {
      first.node.remove();
      this.parts.shift();
      this.length -= first.length;
      this.lines -= first.lines;
      return;
    }
    const kept = first.node.data.slice(-MOST).split("\n").slice(-LINES).join("\n");
    first.node.data = kept;
    this.length = first.length = kept.length;
    this.lines = first.lines = kept.split("\n").length - 1;
  }

  empty() {
    this.place.textContent = "";
    this.parts = [];
    this.length = this.lines = 0;
  }

  follow(wanted) {
    this.following = wanted;
    this.button.setAttribute("aria-pressed", String(wanted));
    if (wanted) this.place.scrollTop = this.place.scrollHeight;
  }

  scrolled() {
    const atEnd = this.place.scrollHeight - this.place.scrollTop - this.place.clientHeight < 30;
    if (atEnd !== this.following) this.follow(atEnd);
  }

  tell(words) {
    this.state.textContent = this.cut ? `${words} Older lines are in the whole log only.` : words;
  }
}

class Refusal extends Error {}

/** Wait until the page is seen. */
function seen() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((done) => document.addEventListener("visibilitychange", () => done(seen()), { once: true }));
}

async function refusal(answer) {
  const plain = (answer.headers.get("Content-Type") ?? "").startsWith("text/plain");
  return plain ? (await answer.text()).trim() : "The log cannot be read now; reload the page.";
}
