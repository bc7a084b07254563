// --- picker: choosing a set's objectives, and adding one's own in place ----------------------------------------------

let picking = 0; // the set that is being chosen

function openPicker(place, name = "") {
  picking = place;
  $("picker-title").textContent = sets.length > 1 ? `Objectives, set ${letter(place)}` : "Objectives";
  $("filter").value = "";
  $("own-name").value = $("own-sentence").value = $("own-error").textContent = "";
  renderChoices();
  $("picker").showModal();
  const target = [...$("choices").querySelectorAll("input")].find((box) => name && box.value === name);
  (target || $("filter")).focus();
  target?.scrollIntoView({ block: "center" });
}

function renderChoices() {
  const sought = $("filter").value.trim().toLowerCase();
  const chosen = sets[picking];
  const all = [...own, ...known.filter((one) => !ownNamed(one.name)),
    ...chosen.filter((one) => !ownNamed(one.name) && !knownNamed(one.name))];
  const found = all.filter((one) => `${one.name} ${sentenceOf(one)}`.toLowerCase().includes(sought));
  $("choices").replaceChildren(...found.map((one, at) => {
    const box = el("input", { type: "checkbox", value: one.name, "aria-describedby": `sentence-${at}`, onchange: () => choose(one, box.checked) });
    box.checked = chosen.some((other) => other.name === one.name);
    return el("li", {},
      el("label", { class: "choice" }, box, el("b", {}, one.name), el("span", { id: `sentence-${at}` }, sentenceOf(one))),
      ownNamed(one.name) && el("button", { type: "button", class: "link", "aria-label": `Change ${one.name}`, onclick: () => {
        $("own-name").value = one.name;
        $("own-sentence").value = sentenceOf(one);
        $("own-sentence").focus();
      } }, "Change"),
      ownNamed(one.name) && el("button", { type: "button", class: "quiet icon small", "aria-label": `Delete ${one.name}`, title: "Delete",
        onclick: () => { dropOwn(one.name); renderChoices(); $("filter").focus(); } }, icon("trash")));
  }));
  if (!found.length) $("choices").append(el("li", { class: "fine" }, sought ? "None is called so. Add it below." : "None yet. Add one below."));
}

function choose(one, on) {
  sets[picking] = sets[picking].filter((other) => other.name !== one.name);
  if (on) sets[picking].push(asObjective({ name: one.name, description: sentenceOf(one) }));
  setsChanged();
}

$("filter").addEventListener("input", renderChoices);
$("filter").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault(); // the first that was found, or a new one of that name
  const first = $("choices").querySelector("input");
  if (first) first.click();
  else { $("own-name").value = $("filter").value.trim(); $("own-sentence").focus(); }
});
$("own").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("own-name").value.trim(), sentence = $("own-sentence").value.trim();
  const wrong = addOwn(name, sentence);
  $("own-error").textContent = wrong;
  if (wrong) return;
  sets = sets.map((set) => set.map((one) => (one.name === name ? { name, description: sentence } : one)));
  choose({ name, description: sentence }, true);
  $("own-name").value = $("own-sentence").value = $("filter").value = "";
  renderChoices();
  say(`${name} added`);
  $("own-name").focus();
});
