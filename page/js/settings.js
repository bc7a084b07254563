// --- settings: model, system text, rounds, gate; theme and view ------------------------------------------------------

const THEMES = ["system", "light", "dark"];

function applyTheme() {
  const { theme } = settings;
  document.documentElement.dataset.theme = theme;
  $("theme").querySelector("use").setAttribute("href", `#i-${theme}`);
  const text = theme === "system" ? "Theme: as the system" : `Theme: ${theme}`;
  $("theme").setAttribute("aria-label", text);
  $("theme").title = text;
}

$("theme").addEventListener("click", () => {
  settings.theme = THEMES[(THEMES.indexOf(settings.theme) + 1) % THEMES.length];
  keepSettings();
  applyTheme();
  say($("theme").title);
});

function setView(view) {
  settings.view = view;
  keepSettings();
  for (const radio of document.querySelectorAll("[name=view]")) radio.checked = radio.value === view;
  const { scrollTop } = $("main");
  renderTurns();
  $("main").scrollTop = scrollTop;
}

for (const radio of document.querySelectorAll("[name=view]")) radio.addEventListener("change", () => setView(radio.value));

function openSettings() {
  $("system").value = chat.system;
  $("rounds").value = settings.rounds ?? "";
  $("limit").value = settings.limit ?? "";
  $("temperature").value = settings.temperature ?? "";
  $("gate").value = settings.gate;
  $("settings").showModal();
}

/** A number field's value where it stands within its bounds, else `otherwise`. */
function numberIn(field, otherwise) {
  return field.value !== "" && field.checkValidity() ? Number(field.value) : otherwise;
}

$("settings").addEventListener("close", () => {
  settings.system = chat.system = $("system").value.trim();
  settings.rounds = numberIn($("rounds"), null);
  settings.limit = numberIn($("limit"), null);
  settings.temperature = numberIn($("temperature"), null);
  settings.gate = $("gate").value;
  settings.model = $("model").value;
  keepSettings();
  keepChat(chat);
});
$("forget").addEventListener("click", () => {
  if (!confirm("Forget all conversations, objectives and settings kept in this browser?")) return;
  stop();
  chat = newChat();
  forgetAll();
  location.reload();
});

/** What the server offers. Without an answer the page still shows what is kept here. */
async function meetServer() {
  try {
    const [objectives, models] = await Promise.all([getJson("v1/objectives"), getJson("v1/models")]);
    known = objectives.data.map(asObjective).filter(Boolean);
    // the policy alone, under a name of its own, has nothing to compare
    const names = models.data.filter((model) => model.metaaligner?.objectives?.length !== 0).map((model) => String(model.id));
    $("model").replaceChildren(...names.map((name) => el("option", {}, name)));
    if (!names.includes(settings.model)) settings.model = names[0] ?? "";
    $("model").value = settings.model;
  } catch (error) {
    notice(error instanceof WireError ? error.message : "The server answered what this page cannot read.", "Try again", meetServer);
    if (!(error instanceof WireError)) console.error(error);
  }
  renderSets();
}
