// --- turns: a message and its answers on the screen ------------------------------------------------------------------

const STATES = { waiting: "reading", policy: "answering", edit: "editing" };
const STAGES = [["read", "read"], ["reused", "reused"], ["written", "written"], ["copied", "copied"]];

const painters = new Map(); // turn -> paints what of it changed

/** What a server or a file tells about an answer, cut down to what is shown; null where there is nothing. */
function metaOf(told) {
  if (typeof told?.aligned !== "boolean") return null;
  const numbers = (stage) => Object.fromEntries([...STAGES.map(([name]) => name), "seconds"]
    .filter((name) => Number.isFinite(stage?.[name])).map((name) => [name, stage[name]]));
  return {
    aligned: told.aligned,
    failure: typeof told.failure === "string" ? told.failure : "",
    preference: Number.isFinite(told.preference) ? told.preference : null,
    notes: Array.isArray(told.notes) ? told.notes.filter((note) => typeof note === "string") : [],
    stages: { policy: numbers(told.stages?.policy), edit: numbers(told.stages?.edit) },
  };
}

function renderTurns() {
  painters.clear();
  $("turns").replaceChildren(...chat.turns.map(turnElement));
  $("empty").hidden = chat.turns.length > 0;
  for (const paint of painters.values()) paint();
}

function turnElement(turn, place) {
  const columns = settings.view === "side" ? [policyColumn(turn)] : [];
  columns.push(...turn.answers.map((answer, at) => alignedColumn(turn, answer, at)));
  painters.set(turn, () => columns.forEach((column) => column.paint()));
  return el("article", { class: "turn", "aria-label": `Message ${place + 1}` },
    el("div", { class: "said" },
      el("h2", { class: "hidden" }, "You"),
      el("p", { dir: "auto" }, turn.query),
      el("button", { type: "button", class: "link", "aria-label": `Edit message ${place + 1}`, onclick: () => beginEdit(place) }, "Edit")),
    el("div", { class: "columns", "data-count": columns.length }, ...columns.map((column) => column.element)));
}

/** The policy's answer: that of the first set. Where another set had another one, that set's column shows it. */
function policyColumn(turn) {
  const body = el("div", { class: "text", dir: "auto" });
  const state = el("span", { class: "state" });
  const counts = el("div", { class: "counts" });
  const tools = el("div", { class: "tools" });
  const element = el("div", { class: "answer policy", role: "group", "aria-label": "Policy" },
    el("header", {}, el("h3", {}, "Policy"), state), body, counts, tools);
  const shown = painter(body);
  return { element, paint() {
    const answer = turn.answers[0];
    const writing = answer && ["waiting", "policy"].includes(answer.state);
    state.textContent = writing ? STATES[answer.state] : "";
    element.setAttribute("aria-busy", String(Boolean(writing)));
    shown("text", answer?.policy ?? "", markdown);
    if (answer && isRunning(answer)) return;
    counts.replaceChildren(countsElement(answer?.meta?.stages.policy));
    tools.replaceChildren(answer?.policy ? copyButton(answer.policy) : "");
  } };
}

function alignedColumn(turn, answer, at) {
  const several = turn.answers.length > 1;
  const name = several ? `Set ${letter(at)}` : "Aligned";
  const body = el("div", { class: "text", dir: "auto" });
  const state = el("span", { class: "state" });
  const notes = el("div", { class: "notes" });
  const counts = el("div", { class: "counts" });
  const tools = el("div", { class: "tools" });
  const element = el("div", { class: "answer aligned", role: "group", "aria-label": name },
    el("header", {}, el("h3", {}, name), el("ul", { class: "toward", "aria-label": "Objectives" },
      ...answer.objectives.map((one) => el("li", { title: one.description || null }, one.name))), state),
    body, notes, counts, tools);
  const shown = painter(body);
  return { element, paint() {
    const running = isRunning(answer);
    const label = settings.view === "side" && answer.state !== "edit" ? "waiting" : STATES[answer.state]; // for the policy
    state.textContent = running ? label : answer.state === "stopped" ? "stopped" : "";
    element.setAttribute("aria-busy", String(running));
    let parts = null;
    if (settings.view === "diff" && answer.policy) {
      parts = compare(answer.policy, answer.text, answer.state !== "done");
      shown("diff", JSON.stringify(parts), () => diffElement(parts));
    } else shown("text", answer.text, markdown);
    notes.replaceChildren(...notesOf(turn, answer, at));
    if (running) return;
    const changed = answer.state === "done" && answer.policy && changes(parts ?? compare(answer.policy, answer.text));
    counts.replaceChildren(
      changed && (changed.gone || changed.fresh) ? el("p", { class: "changed" },
        el("span", { class: "plus" }, `+${changed.fresh}`, el("span", { class: "hidden" }, " words added")), " ",
        el("span", { class: "minus" }, `−${changed.gone}`, el("span", { class: "hidden" }, " words taken out")),
        el("span", { "aria-hidden": "true" }, " words")) : "",
      settings.view === "diff" || at > 0 ? countsElement(answer.meta?.stages.policy, "policy") : "",
      countsElement(answer.meta?.stages.edit, settings.view === "diff" || several ? "edit" : ""));
    tools.replaceChildren(...toolsOf(turn, answer, at));
  } };
}

/** Renews a body only where its text changed, so that a selection in a finished text stays. */
function painter(body) {
  let last = null;
  return (kind, text, make) => {
    if (last === kind + text) return;
    last = kind + text;
    body.className = kind;
    body.replaceChildren(make(text));
  };
}

function notesOf(turn, answer, at) {
  const { meta } = answer;
  const note = (kind, text, ...more) => el("p", { class: kind }, text, ...more);
  const notes = [];
  if (answer.state === "error") notes.push(note("wrong", answer.note));
  else if (answer.note) notes.push(note("fine", answer.note));
  if (meta?.failure) notes.push(note("warn", `Not edited: ${meta.failure}`));
  else if (meta && !meta.aligned && answer.state === "done") notes.push(note("warn", "The policy's answer was kept."));
  else if (answer.state === "done" && answer.policy && answer.policy === answer.text) notes.push(note("fine", "The aligner left the answer as it was."));
  notes.push(...(meta?.notes ?? []).map((text) => note("fine", text)));
  if (meta?.preference !== null && meta?.preference !== undefined) {
    notes.push(note("fine", `Gate: the aligner holds its edit ${meta.preference > 0 ? "more" : "less"} likely than the answer (${meta.preference.toFixed(2)} per token).`));
  }
  if (settings.view === "side" && at > 0 && answer.policy && !isRunning(answer) && answer.policy !== turn.answers[0].policy) {
    notes.push(el("details", {}, el("summary", {}, "It edited another answer of the policy"), el("p", { class: "other", dir: "auto" }, answer.policy)));
  }
  return notes;
}

function countsElement(stage, label = "") {
  if (!stage || !Object.keys(stage).length) return "";
  const count = (value, word) => el("div", {}, el("dt", {}, word), el("dd", {}, value));
  return el("dl", { "aria-label": label ? `Tokens, ${label}` : "Tokens" },
    label && el("div", { class: "stage" }, el("dt", {}, label), el("dd", {})),
    ...STAGES.filter(([name]) => stage[name] !== undefined).map(([name, word]) => count(stage[name].toLocaleString(), word)),
    stage.seconds !== undefined && el("div", {}, el("dt", { class: "hidden" }, "time"), el("dd", {}, seconds(stage.seconds))));
}

function copyButton(text) {
  if (!navigator.clipboard) return ""; // a page from another machine over http may not
  return el("button", { type: "button", class: "link", onclick: async ({ target }) => {
    await navigator.clipboard.writeText(text);
    target.textContent = "Copied";
    say("Copied");
    setTimeout(() => { target.textContent = "Copy"; }, 1500);
  } }, "Copy");
}

function toolsOf(turn, answer, at) {
  const last = turn === chat.turns.at(-1);
  const button = (text, act, pressed) => el("button", { type: "button", class: "link", "aria-pressed": pressed, onclick: act }, text);
  return [
    answer.text && copyButton(answer.text),
    last && at === turn.answers.length - 1 && button(answer.state === "error" ? "Try again" : "Run again", runAgain),
    turn.answers.length > 1 && answer.text && button(turn.chosen === at ? "Goes on with this" : "Go on with this", () => {
      turn.chosen = at;
      keepChat(chat);
      renderTurns();
      $("turns").lastElementChild?.querySelectorAll(".aligned")[at]?.querySelector("[aria-pressed]")?.focus();
    }, String(turn.chosen === at)),
  ].filter(Boolean);
}
