// --- talk: sending a message under every set, following the answers, stopping ----------------------------------------

let chat = newChat();
let running = null; // the AbortController of the message that is being answered
let editing = null; // the place of the message that is being edited
const MOST_TRIES = 4; // of a request that the server was too busy for

function send() {
  const query = $("query").value.trim();
  if (!query || running) return;
  if (editing !== null) chat.turns.length = editing;
  endEdit();
  $("query").value = "";
  fitQuery();
  answerQuery(query);
}

/** The last message once more, under the sets as they are now. */
function runAgain() {
  if (running || !chat.turns.length) return;
  endEdit();
  const { query } = chat.turns.pop();
  focusField();
  answerQuery(query);
}

async function answerQuery(query) {
  const here = chat;
  const turn = { query, chosen: 0, answers: sets.map((set) => (
    { objectives: snapshot(set), policy: "", text: "", state: "waiting", note: "", meta: null })) };
  const bodies = sets.map((set) => bodyFor(here, query, set));
  here.turns.push(turn);
  here.title ||= titleOf(query);
  touched(here);
  running = new AbortController();
  showRunning(true);
  renderTurns();
  scrollToEnd(true);
  say("The policy is reading.");
  const paint = throttled(() => { painters.get(turn)?.(); scrollToEnd(); });
  let told = "waiting";
  const changed = () => {
    paint();
    const now = turn.answers.every((answer) => answer.state !== "waiting" && answer.state !== "policy") ? "edit" : "waiting";
    if (now !== told && turn.answers.some(isRunning)) say("The aligner is editing.");
    told = now;
  };
  const { signal } = running;
  const [first, ...others] = turn.answers;
  await new Promise((resolve) => {
    // The policy is asked once: the other sets edit the answer that the first one got, as soon as it is whole.
    let rest = null;
    const start = () => {
      rest ??= Promise.all(others.map((answer, at) => {
        answer.policy = first.policy;
        const body = bodies[at + 1];
        if (first.policy) body.metaaligner.answer = first.policy;
        return follow(answer, body, signal, changed);
      }));
      return rest;
    };
    const grown = () => { changed(); if (first.state === "edit") start(); };
    follow(first, bodies[0], signal, grown).then(start).then(resolve);
  });
  running = null;
  showRunning(false);
  touched(here);
  if (chat === here) renderTurns();
  scrollToEnd();
  say(summary(turn));
}

function bodyFor(chat, query, set) {
  const messages = chat.system ? [{ role: "system", content: chat.system }] : [];
  for (const turn of chat.turns) {
    const text = finalText(turn);
    if (text) messages.push({ role: "user", content: turn.query }, { role: "assistant", content: text });
  }
  messages.push({ role: "user", content: query });
  return {
    model: settings.model || undefined,
    messages,
    stream: true,
    max_tokens: settings.limit ?? undefined,
    temperature: settings.temperature ?? undefined,
    metaaligner: {
      objectives: set.length ? set.map(onWire) : undefined,
      show: "both",
      gate: settings.gate ? settings.gate === "on" : undefined,
      rounds: settings.rounds ?? undefined,
    },
  };
}

/** Follows one answer to its end, whichever it is; what went wrong stands in its note. */
async function follow(answer, body, signal, changed) {
  try {
    for (let tries = 1; ; tries++) {
      try {
        await take(answer, body, signal, changed);
        break;
      } catch (error) {
        if (!error.retryAfter || tries === MOST_TRIES) throw error;
        answer.note = `The server is busy. Next try in ${plural(error.retryAfter, "second")}.`;
        changed();
        await pause(Math.min(error.retryAfter, 60) * 1000, signal);
        answer.note = "";
      }
    }
    answer.state = "done";
  } catch (error) {
    answer.state = error.name === "AbortError" ? "stopped" : "error";
    answer.note = answer.state === "error" ? error.message : "";
    if (!(error instanceof WireError) && answer.state === "error") console.error(error);
  }
  changed();
}

async function take(answer, body, signal, changed) {
  let finished = false;
  for await (const chunk of chunksOf(body, signal)) {
    const { delta = {}, finish_reason: reason } = chunk.choices?.[0] ?? {};
    const told = chunk.metaaligner ?? chunk.choices?.[0]?.metaaligner;
    if (delta.reasoning_content) { answer.policy += delta.reasoning_content; answer.state = "policy"; }
    if (delta.content) { answer.text += delta.content; answer.state = "edit"; }
    if (told) {
      answer.meta = metaOf(told);
      if (typeof told.policy_text === "string") answer.policy = told.policy_text;
      if (typeof told.text === "string") answer.text = told.text; // an edit that was streamed and then not taken
      if (!answer.objectives.length && Array.isArray(told.objectives)) answer.objectives = told.objectives.map(asObjective).filter(Boolean);
    }
    if (reason) { finished = true; if (reason === "length") answer.note = "The longest length was reached."; }
    changed();
  }
  if (!finished) throw new WireError("The connection broke before the answer was whole.", { code: "broken_stream" });
}

function pause(time, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, time);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("stopped", "AbortError")); }, { once: true });
  });
}

function stop() {
  running?.abort();
}

function summary(turn) {
  const one = ({ state, meta, note, objectives }) => (state === "error" ? `Failed: ${note}`
    : state === "stopped" ? "Stopped."
      : meta?.failure ? `Not edited: ${meta.failure}`
        : `Done${objectives.length ? `, toward ${objectives.map((objective) => objective.name).join(", ")}` : ""}.`);
  return turn.answers.map((answer, at) => (turn.answers.length > 1 ? `Set ${letter(at)}: ${one(answer)}` : one(answer))).join(" ");
}

function showRunning(on) {
  const pressed = [$("send"), $("stop")].includes(document.activeElement);
  $("send").hidden = on;
  $("stop").hidden = !on;
  if (pressed) focusField();
  document.body.classList.toggle("running", on);
}

/** To the message field, but where that would push a keyboard onto the screen. */
function focusField() {
  (matchMedia("(pointer: coarse)").matches ? $("main") : $("query")).focus();
}

function beginEdit(place) {
  if (running) return;
  editing = place;
  $("query").value = chat.turns[place].query;
  const later = chat.turns.length - place - 1;
  $("editing").firstElementChild.textContent = `Editing message ${place + 1}.${later ? ` ${plural(later, "later message goes", "later messages go")}.` : ""}`;
  $("editing").hidden = false;
  fitQuery();
  $("query").focus();
}

function endEdit() {
  editing = null;
  $("editing").hidden = true;
}

function touched(one) {
  one.updated = new Date().toISOString();
  keepChat(one);
  if (one === chat) tab.set("mal.open", one.id);
  renderHistory();
}

let atEnd = true; // until the reader scrolls up to read

/** Follows what grows at the end, unless the reader has scrolled up. */
function scrollToEnd(always = false) {
  if (always || atEnd) $("main").scrollTop = $("main").scrollHeight;
}

$("main").addEventListener("scroll", ({ target }) => { atEnd = target.scrollHeight - target.scrollTop - target.clientHeight < 48; });
new ResizeObserver(() => scrollToEnd()).observe($("main"));
