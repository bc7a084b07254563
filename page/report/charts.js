// --- charts: Chart.js draws them in the page's colours; every number stands in a table, too ---------------------------

const drawn = { bars: [], radars: [] };
const probe = document.body.appendChild(el("span", { hidden: true }));
const PALETTE = 8;

/** A colour of the style sheet as the browser has it now, light or dark. */
function colour(name, alpha = 1) {
  probe.style.color = `var(${name})`;
  const found = getComputedStyle(probe).color;
  return alpha === 1 ? found : found.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);
}

/** The colour of a text: the edits' and the answer's own, the baselines' in turn. */
function colourName(variant) {
  if (variant === ALIGNED) return "--c0";
  if (variant === UNALIGNED) return "--c1";
  const rest = variants.filter((name) => name !== ALIGNED && name !== UNALIGNED);
  return `--c${2 + (rest.indexOf(variant) % (PALETTE - 2))}`;
}

function clear(kind) {
  drawn[kind].forEach((chart) => chart.destroy());
  drawn[kind] = [];
}

/** A name in lines of at most `room` letters, where it has spaces. */
function inLines(name, room = 16) {
  const lines = [];
  for (const word of name.split(" ")) {
    if (lines.length && `${lines.at(-1)} ${word}`.length <= room) lines.push(`${lines.pop()} ${word}`);
    else lines.push(word.length > 2 * room ? `${word.slice(0, 2 * room - 1)}…` : word);
  }
  return lines.length > 3 ? [...lines.slice(0, 2), `${lines[2]} …`] : lines;
}

function font() {
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.font.size = 12;
  Chart.defaults.color = colour("--soft");
  Chart.defaults.animation = false;
}

/** The 95 % intervals over the bars; Chart.js has none of its own. */
const whiskers = {
  id: "whiskers",
  afterDatasetsDraw(chart) {
    const { ctx, scales: { x } } = chart;
    ctx.save();
    ctx.strokeStyle = colour("--ink");
    ctx.lineWidth = 1.25;
    chart.data.datasets.forEach((set, i) => chart.getDatasetMeta(i).data.forEach((bar, j) => {
      const one = set.intervals[j];
      if (!one || one.low === null) return;
      const [low, high] = [one.low, one.high].map((value) => x.getPixelForValue(100 * value));
      const cap = Math.min(4, bar.height / 2);
      ctx.beginPath();
      ctx.moveTo(low, bar.y); ctx.lineTo(high, bar.y);
      ctx.moveTo(low, bar.y - cap); ctx.lineTo(low, bar.y + cap);
      ctx.moveTo(high, bar.y - cap); ctx.lineTo(high, bar.y + cap);
      ctx.stroke();
    }));
    ctx.restore();
  },
};

/**
 * Bars of points with their intervals: a group for each objective, a bar for each text. `series`: [{name, intervals}].
 */
function bars(title, told, objectives, series) {
  const names = series.map((one) => one.name);
  const alternative = objectives.map((objective, i) => `${objective}: ${series.filter((one) => one.intervals[i])
    .map((one) => `${one.name} ${points(one.intervals[i])}`).join(", ")}`).join("; ");
  const canvas = el("canvas", { role: "img", "aria-label": `Bars. ${title}, in points, with 95 % intervals. ${alternative}` });
  const box = el("div", { class: "canvas" }, canvas);
  const figure = el("figure", {}, el("figcaption", {}, title, el("span", { class: "fine" }, told)), box);
  const lines = Math.max(...objectives.map((name) => inLines(name).length));
  box.style.height = `${objectives.length * Math.max(26, 10 + 13 * names.length, 17 * lines) + 46}px`;
  const ends = series.flatMap((one) => one.intervals).filter(Boolean)
    .flatMap((one) => [100 * (one.low ?? one.value), 100 * (one.high ?? one.value)]);
  const draw = () => drawn.bars.push(new Chart(canvas, {
    type: "bar",
    data: {
      labels: objectives.map((name) => inLines(name)),
      datasets: series.map((one) => ({
        label: one.name, intervals: one.intervals, data: one.intervals.map((found) => (found ? 100 * found.value : null)),
        backgroundColor: colour(colourName(one.name), one.name === ALIGNED ? 0.85 : 0.55), borderRadius: 2,
        categoryPercentage: 0.82, barPercentage: 0.86, minBarLength: 2,
      })),
    },
    options: {
      indexAxis: "y", maintainAspectRatio: false, responsive: true,
      interaction: { mode: "nearest", axis: "y", intersect: false },
      scales: {
        x: {
          suggestedMin: Math.min(0, ...ends) - 3, suggestedMax: Math.max(0, ...ends) + 3,
          grid: { color: (line) => colour(line.tick.value === 0 ? "--edge" : "--line") }, border: { display: false },
          ticks: { maxTicksLimit: 7, callback: (value) => (value > 0 ? `+${value}` : String(value).replace("-", "−")) },
        },
        y: { grid: { display: false }, border: { display: false }, ticks: { color: colour("--ink"), autoSkip: false } },
      },
      plugins: {
        legend: { display: false },
        tooltip: { callbacks: {
          title: (items) => objectives[items[0]?.dataIndex] ?? "",
          label: (item) => `${item.dataset.label}: ${points(item.dataset.intervals[item.dataIndex])}`,
        } },
      },
    },
    plugins: [whiskers],
  }));
  return { figure, draw };
}

/** How often a policy's edits and its answers won, a web over the objectives. `series`: [{name, values, shown, dashed}]. */
function radar(title, objectives, series, hint) {
  const alternative = objectives.map((objective, i) =>
    `${objective}: ${series.map((one) => `${one.name} ${one.told[i]}`).join(", ")}`).join("; ");
  const canvas = el("canvas", { role: "img", "aria-label": `Radar of ${title}, ${hint}. ${alternative}` });
  const numbers = table(`${title}: ${hint}`, ["objective", ...series.map((one) => `#${one.name}`)],
    objectives.map((objective, i) => row(objective, ...series.map((one) => one.told[i]))), true);
  const figure = el("figure", {}, el("figcaption", {}, title), el("div", { class: "canvas" }, canvas),
    el("details", {}, el("summary", {}, "Numbers"), numbers));
  const draw = () => drawn.radars.push(new Chart(canvas, {
    type: "radar",
    data: {
      labels: objectives.map((name) => inLines(name, 14)),
      datasets: series.map((one) => ({
        label: one.name, data: one.values, borderColor: colour(one.colour), backgroundColor: colour(one.colour, one.fill),
        borderWidth: 2, borderDash: one.dashed ? [5, 4] : [], pointRadius: one.dashed ? 0 : 2.5,
        pointBackgroundColor: colour(one.colour), fill: one.fill > 0, spanGaps: true,
      })),
    },
    options: {
      maintainAspectRatio: false, responsive: true,
      scales: { r: {
        min: 0, max: 100, grid: { color: colour("--line") }, angleLines: { color: colour("--line") },
        ticks: { stepSize: 25, backdropColor: colour("--paper", 0.7), color: colour("--soft"), font: { size: 10 } },
        pointLabels: { color: colour("--ink"), font: { size: objectives.length > 12 ? 9 : 11 } },
      } },
      plugins: { legend: { position: "bottom", onClick: () => {}, labels: { boxWidth: 18, color: colour("--ink") } } },
    },
  }));
  return { figure, draw };
}
