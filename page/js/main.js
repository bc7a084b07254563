// --- main: the message field, the keys, the start --------------------------------------------------------------------

const EXAMPLES = [
  "My parcel is a week late and nobody answers my emails.",
  "How do I tell my neighbour that her music is too loud?",
  "Why is the sky blue?",
];
const SHORTCUTS = [
  ["Enter", "Send"],
  ["Shift Enter", "New line"],
  ["Esc", "Stop, or close what is open"],
  ["Alt N", "New conversation"],
  ["Alt O", "Choose objectives"],
  ["Alt V", "Side by side, or diff"],
  ["Alt R", "Run the last message again"],
  ["Alt M", "To the message field"],
  ["Alt K", "This list"],
];

/** The message field is as tall as its text, within what the stylesheet allows. */
function fitQuery() {
  $("query").style.height = "auto";
  $("query").style.height = `${$("query").scrollHeight}px`;
}

$("query").addEventListener("input", fitQuery);
$("query").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
$("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("stop").addEventListener("click", () => { stop(); $("query").focus(); });
$("cancel-edit").addEventListener("click", () => { endEdit(); $("query").value = ""; fitQuery(); $("query").focus(); });
$("compare").addEventListener("click", addSet);
$("open-settings").addEventListener("click", openSettings);
$("open-keys").addEventListener("click", () => $("keys").showModal());
for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
for (const dialog of document.querySelectorAll("dialog")) { // a click beside a dialog closes it
  dialog.addEventListener("mousedown", (event) => { if (event.target === dialog) dialog.close(); });
}

const ACTS = {
  KeyN: begin,
  KeyO: () => openPicker(0),
  KeyV: () => setView(settings.view === "side" ? "diff" : "side"),
  KeyR: runAgain,
  KeyM: () => $("query").focus(),
  KeyK: () => $("keys").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return; // a dialog has keys of its own
  if (event.key === "Escape") {
    if (document.body.classList.contains("menu")) closeMenu();
    else if (running) stop();
    else if (editing !== null) $("cancel-edit").click();
  } else if (event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey && ACTS[event.code]) {
    event.preventDefault();
    ACTS[event.code]();
  }
});
for (const leaving of ["beforeunload", "pagehide"]) { // what was written until then is kept, as stopped
  addEventListener(leaving, () => { if (running) { keepChat(chat); stop(); } });
}

$("shortcuts").append(...SHORTCUTS.map(([keys, what]) => el("div", {},
  el("dt", {}, ...keys.split(" ").map((key) => el("kbd", {}, key))), el("dd", {}, what))));
$("examples").append(...EXAMPLES.map((text) => el("li", {}, el("button", { type: "button", onclick: () => {
  $("query").value = text;
  fitQuery();
  $("query").focus();
} }, text))));

applyTheme();
chat = openChat(tab.get("mal.open")) ?? chat;
setView(settings.view);
renderHistory();
renderSets();
scrollToEnd(true);
meetServer();
if (!narrow.matches) $("query").focus();
