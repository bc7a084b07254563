// --- objectives: what the server knows, what was added here, and the sets that the next message is edited under -------

const MOST_SETS = 3;
const letter = (place) => "ABC"[place];

let known = []; // [{name, description}], as the server tells them
let own = load("mal.objectives", []).map(asObjective).filter((one) => one?.description);
let sets = settings.sets.slice(0, MOST_SETS).map((set) => set.map(asObjective).filter(Boolean)); // what is chosen now
if (!sets.length) sets = [[]];

/** {name, description} of what a file, the store or the server holds; null for what is none. */
function asObjective(raw) {
  const { name, description } = typeof raw === "string" ? { name: raw } : raw ?? {};
  if (typeof name !== "string" || !name.trim()) return null;
  return { name: name.trim(), ...(typeof description === "string" && description.trim() && { description: description.trim() }) };
}

const ownNamed = (name) => own.find((one) => one.name.toLowerCase() === name.toLowerCase());
const knownNamed = (name) => known.find((one) => one.name.toLowerCase() === name.toLowerCase());
const sentenceOf = (one) => one.description || ownNamed(one.name)?.description || knownNamed(one.name)?.description || "";

/** How an objective goes over the wire: by name where the server knows it, else with its sentence. */
const onWire = (one) => (!ownNamed(one.name) && knownNamed(one.name) && (!one.description || one.description === knownNamed(one.name).description)
  ? one.name : { name: one.name, description: sentenceOf(one) });

/** A set as an answer keeps it: names with their sentences, whatever becomes of them here. */
const snapshot = (set) => set.map((one) => ({ name: one.name, description: sentenceOf(one) }));

/** Adds or renews an objective of one's own. Gives what is wrong with it in words, "" if nothing. */
function addOwn(name, description) {
  if (!name || !description) return "Give it a name and one sentence.";
  if (/[,:\n]/.test(name)) return "A name holds no comma and no colon.";
  if (knownNamed(name)) return `The server knows ${name} already: choose it above, or take another name.`;
  own = [...own.filter((one) => one.name.toLowerCase() !== name.toLowerCase()), { name, description }];
  keep("mal.objectives", own);
  return "";
}

function dropOwn(name) {
  own = own.filter((one) => one.name !== name);
  sets = sets.map((set) => set.filter((one) => one.name !== name));
  keep("mal.objectives", own);
  setsChanged();
}

function setsChanged() {
  settings.sets = sets.map((set) => set.map(({ name, description }) => ({ name, description })));
  keepSettings();
  renderSets();
}

/** The chips above the message field, a row for each set, the sentences beneath. */
function renderSets() {
  $("compare").hidden = sets.length >= MOST_SETS;
  $("sets").replaceChildren(...sets.map((set, place) => {
    const title = sets.length > 1 ? `Set ${letter(place)}` : "Objectives";
    return el("div", { class: "set", role: "group", "aria-label": title },
      el("span", { class: "name", "aria-hidden": "true" }, sets.length > 1 ? letter(place) : "Toward"),
      el("ul", { class: "chips", "aria-label": title }, ...set.map((one, at) => chip(one, place, at)),
        el("li", {}, el("button", {
          type: "button", class: "add", "aria-haspopup": "dialog", "aria-label": `Choose objectives${sets.length > 1 ? ` of set ${letter(place)}` : ""}`,
          title: "Choose objectives (Alt O)", onclick: () => openPicker(place),
        }, icon("plus"), set.length ? null : "Choose objectives"))),
      sets.length > 1 && el("button", {
        type: "button", class: "quiet icon small", "aria-label": `Remove set ${letter(place)}`, title: `Remove set ${letter(place)}`,
        onclick: () => { sets.splice(place, 1); setsChanged(); $("query").focus(); },
      }, icon("close")),
      el("p", { class: "sentences" }, set.length ? set.flatMap((one) => [
        el("b", {}, one.name), ` ${sentenceOf(one) || "the server's own sentence"} `]).reduce((all, part) => (all.append(part), all), new DocumentFragment())
        : "None chosen: the server's own objectives apply."));
  }));
}

function chip(one, place, at) {
  const remove = () => {
    sets[place].splice(at, 1);
    setsChanged();
    say(`${one.name} removed`);
    const row = $("sets").children[place];
    (row.querySelectorAll(".chip .remove")[Math.min(at, sets[place].length - 1)] ?? row.querySelector(".add")).focus();
  };
  return el("li", { class: "chip" },
    el("button", { type: "button", class: "label", "aria-haspopup": "dialog", "aria-description": sentenceOf(one), title: sentenceOf(one),
      onclick: () => openPicker(place, one.name) }, one.name),
    el("button", { type: "button", class: "remove", "aria-label": `Remove ${one.name}`, onclick: remove }, icon("close")));
}

function addSet() {
  if (sets.length >= MOST_SETS) return;
  sets.push([]);
  setsChanged();
  openPicker(sets.length - 1);
}
