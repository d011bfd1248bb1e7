"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const { recordings, measured } = report;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const percent = (rate, digits = 1) => `${(100 * rate).toFixed(digits)} %`;
const count = (n) => n.toLocaleString("en");
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "pentagon", "star", "x"];

// --- recordings: what they are called, and their sound

const speakers = [...new Set(recordings.map((one) => one.speaker))];
const known = speakers[0] !== null;
const title = (one) => (one.speaker === null ? one.name : `${one.name} (speaker ${one.speaker})`);

function player(one) {
  if (one.audio === null) return element("p", { className: "quiet", textContent: "not in this file" });
  const audio = element("audio", { controls: true, preload: "none", src: `data:audio/ogg;base64,${one.audio}` });
  audio.setAttribute("aria-label", title(one));
  return audio;
}

function described(one) {
  const parts = [element("div", { className: "name", textContent: one.name })];
  if (one.speaker !== null) parts.push(element("div", { className: "quiet", textContent: `speaker ${one.speaker}` }));
  return element("div", {}, ...parts, player(one));
}

// --- head and figures

document.title = byId("title").textContent = `Speaker report: ${report.title}`;
const people = report.n_speakers === null ? "speakers not known" : `${count(report.n_speakers)} speakers`;
byId("about").textContent = `${count(report.n_recordings)} recordings, ${people}, embedded by model ${report.model}`;
byId("notes").append(...report.notes.map((note) => element("p", { className: "note", textContent: note })));
byId("foot").textContent = `Nothing on this page comes from, or goes to, the network. Recordings are cut after ${report.max_listen_s} s.`;
for (const part of document.querySelectorAll("[data-measured]")) part.hidden = measured === null;

function tile(name, value, more) {
  return element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }, element("small", { textContent: more })));
}

if (measured) {
  const figures = measured.figures;
  byId("figures").append(
    tile("EER", percent(figures.eer), `95 %: ${(100 * figures.eer_low).toFixed(1)} to ${percent(figures.eer_high)}`),
    ...(measured.floor_eer === null ? [] : [tile("Log-mel floor’s EER", percent(measured.floor_eer), "no training at all")]),
    tile("minDCF(0.01)", figures.min_dcf.toFixed(3), "0 is perfect, 1 useless"),
    tile("AUC", figures.auc.toFixed(4), "1 is perfect, 0.5 chance"),
    tile("Top-1", percent(figures.top_1), "nearest recording is the speaker’s"),
    tile("Top-5", percent(figures.top_5), "one of the nearest five is"),
    tile("Precision at 5", percent(figures.precision_at_5), "of the nearest five"),
    tile("Trials", count(measured.rates.n_target), `of one speaker, ${count(measured.rates.n_nontarget)} of two`),
  );
}

// --- plots

function layout(changes) {
  const axis = { gridcolor: colour("line"), linecolor: colour("line"), zeroline: false, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("ink"), family: "system-ui, sans-serif", size: 13 },
    margin: { l: 56, r: 12, t: 12, b: 48 }, legend: { orientation: "h", y: 1.12, x: 0 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("quiet"), activecolor: colour("ink") },
    hoverlabel: { align: "left", bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
    ...changes, xaxis: { ...axis, ...changes.xaxis }, yaxis: { ...axis, ...changes.yaxis },
  };
}
const config = { responsive: true, displaylogo: false, displayModeBar: false };

const slider = byId("threshold");
const threshold = () => slider.valueAsNumber / measured.rates.steps_per_unit;
const place = () => slider.valueAsNumber - measured.rates.first;
const line = () => ({ type: "line", x0: threshold(), x1: threshold(), yref: "paper", y0: 0, y1: 1, line: { color: colour("ink"), width: 2 } });

function drawScores() {
  const { edges, target, nontarget } = measured.histogram;
  const middles = target.map((_, i) => (edges[i] + edges[i + 1]) / 2);
  const bars = (y, name, shade) => ({
    type: "bar", x: middles, y, name, width: edges[1] - edges[0], marker: { color: shade, opacity: 0.65, line: { width: 0 } },
    hovertemplate: `%{x:.3f}: %{y:.2f}<extra>${name}</extra>`,
  });
  return Plotly.react("scores", [bars(nontarget, "two speakers", colour("nontarget")), bars(target, "one speaker", colour("target"))], layout({
    barmode: "overlay", bargap: 0, xaxis: { title: { text: "score (cosine)" }, fixedrange: true },
    yaxis: { title: { text: "density" }, fixedrange: true }, shapes: [line()],
  }), config);
}

function drawDet() {
  const { x, y, ticks, limits } = measured.det;
  const { rates } = measured;
  const axis = { range: limits, tickvals: ticks.map((tick) => tick[0]), ticktext: ticks.map((tick) => tick[1]), fixedrange: true, tickangle: 0 };
  return Plotly.react("det", [
    { x: limits, y: limits, mode: "lines", line: { color: colour("line"), width: 1 }, hoverinfo: "skip" },
    { x, y, mode: "lines", line: { color: colour("accent"), width: 2.5 }, hoverinfo: "skip" },
    { x: [rates.x[place()]], y: [rates.y[place()]], mode: "markers", marker: { color: colour("ink"), size: 12 }, hoverinfo: "skip" },
  ], layout({ showlegend: false, xaxis: { ...axis, title: { text: "false accepts (%)" } }, yaxis: { ...axis, title: { text: "misses (%)" } } }), config);
}

const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");
let selected = null;

const LABEL = { letter: 7.5, height: 20, longest: 18 }; // pixels, pixels, letters

/** What the map has names for, most important first: [name, x, y]. A speaker's is above those of their recordings that lie together. */
function named() {
  if (!known) return report.map.map(([at, x, y]) => [recordings[at].name.split("/").at(-1), x, y]);
  const places = new Map();
  for (const point of report.map) {
    const { speaker } = recordings[point[0]];
    places.set(speaker, [...(places.get(speaker) ?? []), point]);
  }
  const first = selected === null ? null : recordings[selected].speaker;
  const top = (points) => {
    const away = (one) => points.reduce((sum, other) => sum + Math.hypot(one[1] - other[1], one[2] - other[2]), 0);
    const inward = [...points].sort((a, b) => away(a) - away(b)).slice(0, Math.ceil((2 * points.length) / 3));
    return inward.reduce((best, one) => (one[2] > best[2] ? one : best));
  };
  return [...places].sort(([a, ofA], [b, ofB]) => (b === first) - (a === first) || ofB.length - ofA.length)
    .map(([speaker, points]) => [speaker, ...top(points).slice(1)]);
}

/** Names above points of the map: as many as do not cover each other where it stands; nearer, there is room for more. */
function labels() {
  const { xaxis, yaxis } = byId("map")._fullLayout;
  const taken = [];
  const shown = [];
  for (const [name, x, y] of named()) {
    const text = name.length > LABEL.longest ? `${name.slice(0, LABEL.longest - 1)}…` : name;
    const half = (LABEL.letter * text.length) / 2 + 4;
    const [middle, bottom] = [xaxis.d2p(x), yaxis.d2p(y) - 8];
    if (middle < 0 || middle > xaxis._length || bottom < 0 || bottom > yaxis._length) continue;
    const centre = Math.min(Math.max(middle, half), xaxis._length - half);
    if (taken.some((one) => Math.abs(one.centre - centre) < one.half + half && Math.abs(one.bottom - bottom) < LABEL.height)) continue;
    taken.push({ centre, bottom, half });
    shown.push({ x, y, text: escaped(text), xshift: centre - middle, yshift: 8, yanchor: "bottom", showarrow: false, font: { color: colour("ink"), size: 12 },
      bgcolor: `${colour("card")}cc`, borderpad: 1 });
  }
  return shown;
}

function drawMap() {
  const chosen = report.map.map(([at]) => recordings[at]);
  const speaker = selected === null ? null : recordings[selected].speaker;
  const code = chosen.map((one) => speakers.indexOf(one.speaker));
  const here = report.map.map(([at]) => at === selected);
  const drawn = Plotly.react("map", [{
    type: "scatter", mode: "markers", x: report.map.map((point) => point[1]), y: report.map.map((point) => point[2]),
    customdata: report.map.map((point) => point[0]), text: chosen.map((one) => escaped(one.name) + (one.speaker === null ? "" : `<br>speaker ${escaped(one.speaker)}`)),
    hovertemplate: "%{text}<extra></extra>",
    marker: {
      size: here.map((is) => (is ? 20 : 11)), symbol: code.map((i) => SYMBOLS[i % SYMBOLS.length]),
      color: code.map((i) => (known ? `hsl(${(i * 137.5) % 360}, 62%, ${colour("point-lightness")})` : colour("accent"))),
      opacity: chosen.map((one, i) => (speaker === null || here[i] || one.speaker === speaker ? 0.95 : 0.3)),
      line: { width: here.map((is) => (is ? 3 : 1)), color: here.map((is) => (is ? colour("ink") : colour("card"))) },
    },
  }], layout({ hovermode: "closest", dragmode: "pan", margin: { l: 4, r: 4, t: 4, b: 4 }, xaxis: { visible: false }, yaxis: { visible: false, scaleanchor: "x" } }),
  { ...config, displayModeBar: true, scrollZoom: true, modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d"]] });
  return drawn.then(() => Plotly.relayout("map", { annotations: labels() }));
}

// --- what moves

const tags = []; // of the pairs: each is told the threshold

function moveThreshold() {
  const { rates } = measured;
  const [missed, accepted] = [rates.misses[place()], rates.false_accepts[place()]];
  byId("threshold-value").value = threshold().toFixed(3);
  byId("miss-rate").textContent = percent(missed / rates.n_target, 2);
  byId("miss-count").textContent = `${count(missed)} of ${count(rates.n_target)} pairs of one speaker`;
  byId("accept-rate").textContent = percent(accepted / rates.n_nontarget, 2);
  byId("accept-count").textContent = `${count(accepted)} of ${count(rates.n_nontarget)} pairs of two speakers`;
  Plotly.relayout("scores", { shapes: [line()] });
  Plotly.restyle("det", { x: [[rates.x[place()]]], y: [[rates.y[place()]]] }, [2]);
  for (const tell of tags) tell(threshold());
}

function select(at, listen) {
  selected = at;
  byId("recording").value = at;
  const one = recordings[at];
  const neighbours = one.nearest.map(([other, score]) => {
    const same = one.speaker === null ? [] : [element("span", one.speaker === recordings[other].speaker
      ? { className: "tag right", textContent: "same speaker" } : { className: "tag", textContent: "another speaker" })];
    return element("li", {}, element("span", { className: "score", textContent: score.toFixed(3) }), ...same, described(recordings[other]));
  });
  byId("selected").replaceChildren(described(one), element("h3", { textContent: "Scores highest against it" }), element("ol", { className: "neighbours" }, ...neighbours));
  drawMap();
  if (listen) byId("selected").querySelector("audio")?.play();
}

function pair([first, second, score], sameSpeaker) {
  const tag = element("span", { className: "tag" });
  if (measured) tags.push((threshold) => {
    const accepted = score >= threshold;
    tag.textContent = accepted ? (sameSpeaker ? "accepted" : "false accept") : (sameSpeaker ? "miss" : "rejected");
    tag.className = `tag ${accepted === sameSpeaker ? "right" : "wrong"}`;
  });
  return element("li", {}, "Score ", element("span", { className: "score", textContent: score.toFixed(3) }), measured ? tag : "",
    element("div", { className: "sides" }, described(recordings[first]), described(recordings[second])));
}

byId("likest-title").textContent = known ? "Two speakers, highest scores" : "Most alike";
byId("likest-about").textContent = known
  ? "The worst pair of any two speakers. A score far above the threshold may be one person under two names."
  : "The pairs of recordings with the highest scores.";
byId("likest").append(...report.likest.map((one) => pair(one, false)));
byId("unlikest").append(...report.unlikest.map((one) => pair(one, true)));

byId("recording").append(element("option", { value: "", textContent: "choose one, or click on the map" }),
  ...recordings.map((one, at) => element("option", { value: at, textContent: title(one) })));
byId("recording").addEventListener("change", (event) => { if (event.target.value) select(Number(event.target.value), true); });

if (measured) {
  const { rates, marks } = measured;
  Object.assign(slider, { min: rates.first, max: rates.first + rates.misses.length - 1, step: 1 });
  const put = (score) => { slider.value = Math.ceil(score * rates.steps_per_unit); };
  put(marks[0][1]);
  slider.addEventListener("input", moveThreshold);
  byId("presets").append(...marks.map(([name, score]) => element("button", {
    type: "button", textContent: `${name}: ${score.toFixed(3)}`, onclick: () => { put(score); moveThreshold(); },
  })));
}

function draw() {
  return Promise.all([drawMap(), ...(measured ? [drawScores(), drawDet()] : [])]);
}
draw().then(() => {
  if (measured) moveThreshold();
  byId("map").on("plotly_click", (event) => select(event.points[0].customdata, true));
  byId("map").on("plotly_relayout", (changed) => { if (!("annotations" in changed)) Plotly.relayout("map", { annotations: labels() }); });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
