"use strict";
const percent = (rate) => `${+(100 * rate).toPrecision(3)} %`;

async function call(method, path, body, signal) {
  const response = await fetch(path, { method, body, signal });
  const answer = await response.json().catch(() => ({ detail: `the server answered ${response.status} ${response.statusText}` }));
  if (response.ok) return answer;
  throw new Error(typeof answer.detail === "string" ? answer.detail : answer.detail.map((one) => `${one.loc.at(-1)}: ${one.msg}`).join("; "));
}

// --- a place to drop, choose or record recordings

const EXTENSIONS = { "audio/webm": "webm", "audio/ogg": "ogg", "audio/mp4": "m4a" };
const slots = new Map();
let settings = null;

class Slot {
  constructor(box) {
    const { name, label, multiple } = box.dataset;
    this.multiple = multiple !== undefined;
    this.files = [];
    this.recorder = null;
    this.form = box.closest("form");
    const id = `file-${name}`;
    const input = element("input", { type: "file", id, accept: "audio/*,video/webm", multiple: this.multiple });
    input.addEventListener("change", () => { this.add([...input.files]); input.value = ""; });
    this.button = element("button", { type: "button", textContent: "Record", onclick: () => this.record() });
    this.button.setAttribute("aria-label", `${label}: record from the microphone`);
    if (!navigator.mediaDevices) Object.assign(this.button, { disabled: true, title: "Browsers offer the microphone to https and to this machine only" });
    this.list = element("div");
    this.problem = element("div", { className: "quiet", role: "alert" });
    const choose = element("label", { className: "choose", htmlFor: id, textContent: this.multiple ? "Choose files" : "Choose a file" });
    input.setAttribute("aria-label", `${label}: choose ${this.multiple ? "files" : "a file"}`);
    box.append(element("h3", { textContent: label }), element("div", { className: "row" }, input, choose, this.button,
      element("span", { className: "quiet", textContent: "or drop it here" })), this.problem, this.list);
    box.addEventListener("dragover", (event) => { event.preventDefault(); box.classList.add("over"); });
    box.addEventListener("dragleave", () => box.classList.remove("over"));
    box.addEventListener("drop", (event) => { event.preventDefault(); box.classList.remove("over"); this.add([...event.dataTransfer.files]); });
    slots.set(name, this);
  }

  add(files) {
    if (!files.length) return;
    this.problem.textContent = "";
    this.show(this.multiple ? [...this.files, ...files] : files.slice(0, 1));
  }

  show(files) {
    this.files = files;
    withdraw(this.form);
    for (const audio of this.list.querySelectorAll("audio")) URL.revokeObjectURL(audio.src);
    this.list.replaceChildren(...files.map((file, i) => {
      const remove = element("button", { type: "button", textContent: "Remove", onclick: () => this.show(files.filter((_, at) => at !== i)) });
      remove.setAttribute("aria-label", `Remove ${file.name}`);
      const audio = element("audio", { controls: true, src: URL.createObjectURL(file) });
      audio.setAttribute("aria-label", file.name);
      return element("div", {}, element("p", { className: "row" }, element("span", { className: "name", textContent: file.name }), remove), audio);
    }));
  }

  async record() {
    if (this.recorder) return this.recorder.stop();
    this.problem.textContent = "";
    let stream;
    try {
      // what calls do to a voice is left out: other recordings have not been through it
      stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
    } catch (error) {
      this.problem.textContent = `The microphone cannot be used: ${error.message}`;
      return undefined;
    }
    const pieces = [];
    const started = new Date();
    const recorder = this.recorder = new MediaRecorder(stream);
    const tick = setInterval(() => {
      const seconds = (Date.now() - started) / 1000;
      this.button.textContent = `Stop (${seconds.toFixed(0)} s)`;
      if (seconds > settings.max_duration_s - 2) recorder.stop();
    }, 250);
    recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
    recorder.addEventListener("stop", () => {
      clearInterval(tick);
      for (const track of stream.getTracks()) track.stop();
      this.recorder = null;
      this.button.textContent = "Record";
      this.button.classList.remove("recording");
      const type = recorder.mimeType.split(";")[0];
      const name = `microphone ${started.toLocaleTimeString("en-GB")}.${EXTENSIONS[type] ?? "audio"}`;
      this.add([new File(pieces, name, { type })]);
    });
    recorder.start();
    this.button.textContent = "Stop";
    this.button.classList.add("recording");
    return undefined;
  }
}

// --- answers

const asked = new Map(); // form: an AbortController for what the server has not answered yet

/** Takes back what a form answered, or was about to: it was of other recordings, of another threshold, or of other people. */
function withdraw(form) {
  if (form.id === "enrol" && asked.has(form)) return; // who was sent to be enrolled is enrolled
  asked.get(form)?.abort();
  form.querySelector(".answer").replaceChildren();
}

function say(place, kind, headline, ...more) {
  place.replaceChildren(element("div", { className: `verdict ${kind}` }, element("strong", { textContent: headline }), ...more));
}

/** A score on an axis with the model's thresholds, over the scores of a corpus where the server was given one. */
function axis(score, width) {
  const { thresholds, reference } = settings;
  const base = 40 + 18 * thresholds.length + (reference ? 96 : 24);
  const low = Math.min(-0.2, score - 0.05, reference ? reference.edges[0] : 0);
  const x = (value) => 20 + ((value - low) / (1 - low)) * (width - 40);
  const marks = thresholds.map((one) => `${one.score.toFixed(3)} at ${percent(one.false_accept_rate)} false accepts`).join(", ");
  const drawing = svg("svg", { class: "axis", viewBox: `0 0 ${width} ${base + 24}`, role: "img", "aria-label": `Score ${score.toFixed(3)}; thresholds ${marks}` });
  if (reference) {
    const tallest = Math.max(...reference.target, ...reference.nontarget);
    for (const kind of ["nontarget", "target"]) {
      reference[kind].forEach((density, i) => {
        const tall = (90 * density) / tallest;
        drawing.append(svg("rect", { class: kind, x: x(reference.edges[i]), y: base - tall, width: x(reference.edges[i + 1]) - x(reference.edges[i]), height: tall }));
      });
    }
  }
  drawing.append(svg("line", { class: "base", x1: x(low), x2: x(1), y1: base, y2: base }));
  for (let tick = Math.ceil(low / 0.2) * 0.2; tick < 1.01; tick += 0.2) {
    drawing.append(svg("text", { class: "quiet", x: x(tick), y: base + 18, "text-anchor": "middle" }, (Math.round(tick * 10) / 10).toFixed(1)));
  }
  drawing.append(svg("line", { class: "here", x1: x(score), x2: x(score), y1: 22, y2: base + 4 }));
  thresholds.forEach((one, i) => {
    const y = 40 + 18 * i; // each begins below the words of the one before
    drawing.append(svg("line", { class: "threshold", x1: x(one.score), x2: x(one.score), y1: y - 11, y2: base }));
    const words = width < 500 ? "" : " false accepts"; // the caption says it, too
    const [anchor, aside] = x(one.score) > width - 20 - 8 * (6 + words.length) ? ["end", -5] : ["start", 5];
    drawing.append(svg("text", { x: x(one.score) + aside, y, "text-anchor": anchor }, percent(one.false_accept_rate) + words));
  });
  drawing.append(svg("text", { class: "mark", x: Math.min(Math.max(x(score), 50), width - 50), y: 15, "text-anchor": "middle" }, `score ${score.toFixed(3)}`));
  return drawing;
}

/** The axis and what it shows, as wide as it can be, and drawn again where that changes. */
function scoreFigure(score, width) {
  const { reference } = settings;
  const behind = reference ? ` Behind it the pairs of ${reference.corpus}: of one speaker in orange, of two in grey.` : "";
  const figure = element("figure", {}, axis(score, width), element("figcaption", { className: "quiet", textContent:
    `The cosine of the two embeddings. Dashed: the model’s thresholds, by their false accepts.${behind}` }));
  new ResizeObserver(([{ contentRect }]) => figure.firstChild.replaceWith(axis(score, contentRect.width || width))).observe(figure);
  return figure;
}

/** How far a score is from a threshold, in words. */
const distance = (score, threshold) => `${Math.abs(score - threshold).toFixed(3)} ${score >= threshold ? "above" : "below"} the threshold ${threshold.toFixed(3)}`;

function showPeople(people) {
  withdraw(byId("identify"));
  byId("people-answer").replaceChildren();
  const rows = Object.entries(people).map(([speaker, recordings]) => {
    const forget = element("button", { type: "button", textContent: "Forget" });
    forget.setAttribute("aria-label", `Forget ${speaker}`);
    forget.addEventListener("click", async () => {
      if (!confirm(`Forget ${speaker} and ${recordings.length} embedding(s)?`)) return;
      try {
        showPeople(await call("DELETE", `/api/people/${encodeURIComponent(speaker)}`));
        withdraw(byId("enrol"));
        say(byId("people-answer"), "", `${speaker} is forgotten`);
      } catch (error) {
        say(byId("people-answer"), "error", error.message);
      }
    });
    const many = `${recordings.length} recording${recordings.length > 1 ? "s" : ""}`;
    return element("li", {}, element("span", {}, element("span", { className: "name", textContent: speaker }), " ", element("span", { className: "quiet", textContent: many })), forget);
  });
  byId("people").replaceChildren(...(rows.length ? rows : [element("li", { className: "quiet", textContent: "Nobody is enrolled yet." })]));
}

const answers = {
  verify(place, found) {
    const [kind, headline] = found.doubts.length ? ["", "Cannot tell"] : found.same_speaker ? ["yes", "Same speaker"] : ["no", "Different speakers"];
    const reached = found.score >= found.threshold ? "reaches" : "does not reach";
    say(place, kind, headline, ...found.doubts.map((textContent) => element("div", { textContent })),
      element("div", { textContent: `Score ${found.score.toFixed(3)} ${reached} the threshold ${found.threshold.toFixed(3)}, at ${percent(found.false_accept_rate)} false accepts.` }));
    place.append(scoreFigure(found.score, place.clientWidth));
  },
  identify(place, { speaker, score, threshold, candidates, false_accept_rate: rate, doubts }) {
    if (!candidates.length) return say(place, "no", "Nobody who is enrolled", element("div", { textContent: "Nobody is enrolled yet: enrol somebody first." }));
    const nearest = speaker === null ? `Nearest is ${candidates[0].speaker}: score` : "Score";
    say(place, speaker === null ? "no" : "yes", speaker ?? "Nobody who is enrolled",
      ...doubtful(doubts),
      element("div", { textContent: `${nearest} ${score.toFixed(3)}, ${distance(score, threshold)}. At most ${percent(rate)} of strangers reach it.` }));
    const head = ["Person", "Score", "From the threshold"].map((textContent) => element("th", { scope: "col", textContent }));
    const rows = candidates.map((one) => {
      const away = one.score - threshold;
      return element("tr", {}, element("td", { className: "name", textContent: one.speaker }), element("td", { textContent: one.score.toFixed(3) }),
        element("td", { textContent: `${away < 0 ? "−" : "+"}${Math.abs(away).toFixed(3)}` }));
    });
    place.append(element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)));
    return undefined;
  },
  enrol(place, people, sent) {
    showPeople(people);
    const [name, recordings] = [byId("enrol").elements.speaker, slots.get("recordings")];
    if (name.value === sent.get("speaker")) name.value = "";
    recordings.show(recordings.files.filter((file) => !sent.getAll("recordings").some((one) => one.name === file.name && one.size === file.size)));
    say(place, "yes", `${sent.get("speaker")} is enrolled`);
  },
  diarize(place, found, sent) {
    if (!found.turns.length) return say(place, "no", "Nobody speaks", element("div", { textContent: `There is no speech in its ${found.duration_s.toFixed(1)} s.` }));
    const box = element("div");
    const meeting = sent.get("meeting");
    say(place, "", summary(found), ...doubtful(found.doubts));
    place.append(box);
    new Timeline(box, found, meeting.name, URL.createObjectURL(meeting));
    return undefined;
  },
};

for (const box of document.querySelectorAll(".slot")) new Slot(box);

/** Asks the server what a form asks, unless something is missing; an answer that came too late is not shown. */
async function ask(form) {
  const place = form.querySelector(".answer");
  const body = new FormData(form);
  let size = 0;
  for (const { dataset } of form.querySelectorAll(".slot")) {
    const { files } = slots.get(dataset.name);
    if (!files.length) return say(place, "error", `${dataset.label}: choose, drop or record one first`);
    for (const file of files) {
      body.append(dataset.name, file);
      size += file.size;
    }
  }
  if (size > settings.max_request_bytes) return say(place, "error", `More than ${settings.max_request_bytes / 2 ** 20} MB; use shorter or fewer recordings`);
  const button = form.querySelector("button.main");
  const control = new AbortController();
  asked.set(form, control);
  button.disabled = true;
  say(place, "", "Listening …");
  let answer;
  try {
    const found = await call("POST", `/api/${form.id}`, body, control.signal);
    answer = () => answers[form.id](place, found, body);
  } catch (error) {
    answer = () => say(place, "error", error.message);
  }
  button.disabled = false;
  asked.delete(form);
  if (!control.signal.aborted) answer();
  return undefined;
}

for (const form of document.forms) {
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(form); });
  form.addEventListener("change", ({ target }) => { if (target.type !== "file") withdraw(form); }); // a slot tells of its files
}

call("GET", "/api/model").then(async (answer) => {
  settings = answer;
  byId("model").textContent = settings.model;
  byId("limits").textContent = `At most ${settings.max_duration_s} s each.`;
  byId("diarize-limits").textContent = `At most ${settings.max_meeting_s / 60} minutes`;
  for (const choice of document.querySelectorAll("select[name=false_accept_rate]")) {
    choice.append(...settings.thresholds.map((one) => element("option", { value: one.false_accept_rate, textContent: percent(one.false_accept_rate) })));
    choice.selectedIndex = 0;
  }
  byId("no-gallery").hidden = settings.gallery;
  byId("identify").hidden = byId("known").hidden = !settings.gallery;
  if (settings.gallery) showPeople(await call("GET", "/api/people"));
}).catch((error) => say(document.querySelector("#verify .answer"), "error", error.message));
