"use strict";
/* Who spoke when in a recording: a lane a speaker over its waveform; click to listen from there; names to edit, and to take along as RTTM. */

const BARS = 400; // of the waveform
const summary = ({ speakers, turns }) => `${speakers.length} speaker${speakers.length > 1 ? "s" : ""}, ${turns.length} turn${turns.length > 1 ? "s" : ""}`;
const stem = (name) => name.replace(/\.[^.]*$/, "");

class Timeline {
  /** found: turns, speakers, duration_s and peaks; name: the recording's; source: what is listened to. */
  constructor(place, found, name, source) {
    Object.assign(this, { found, name });
    this.names = new Map(found.speakers.map((speaker) => [speaker, speaker]));
    this.audio = element("audio", { controls: true, src: source });
    this.audio.setAttribute("aria-label", name);
    this.audio.addEventListener("timeupdate", () => this.move());
    this.wave = svg("svg", { class: "wave", viewBox: `0 0 ${BARS} 100`, preserveAspectRatio: "none", "aria-hidden": "true" });
    this.cursor = element("div", { className: "cursor" });
    this.track = element("div", { className: "track" }, this.cursor);
    this.track.prepend(this.wave, ...[...this.names.keys()].map((speaker, i) => this.lane(speaker, i)));
    this.track.addEventListener("click", (event) => {
      const box = this.track.getBoundingClientRect();
      this.listen((found.duration_s * (event.clientX - box.left)) / box.width);
    });
    const save = element("button", { type: "button", textContent: "Save as RTTM", onclick: () => this.save() });
    place.replaceChildren(this.audio, element("div", { className: "timeline" }, this.labels(), this.track), element("div", { className: "actions" }, save));
    this.draw();
  }

  labels() {
    return element("div", { className: "labels" }, ...[...this.names.keys()].map((speaker) => {
      const input = element("input", { type: "text", value: speaker, maxLength: 100, autocomplete: "off" });
      input.setAttribute("aria-label", `Name of ${speaker}`);
      input.addEventListener("change", (event) => event.stopPropagation()); // the recording is the same: the form keeps its answer
      input.addEventListener("input", () => this.names.set(speaker, input.value.trim() || speaker));
      return input;
    }));
  }

  lane(speaker, i) {
    const { turns, duration_s: whole } = this.found;
    return element("div", { className: "lane" }, ...turns.filter((turn) => turn.speaker === speaker).map((turn) => {
      const button = element("button", { type: "button", className: "turn", onclick: (event) => { event.stopPropagation(); this.listen(turn.start_s); } });
      button.setAttribute("aria-label", `${speaker}, ${turn.start_s.toFixed(1)} to ${turn.end_s.toFixed(1)} s: listen`);
      button.style.setProperty("left", `${(100 * turn.start_s) / whole}%`);
      button.style.setProperty("width", `${(100 * (turn.end_s - turn.start_s)) / whole}%`);
      button.style.setProperty("background", `hsl(${(i * 137.5 + 210) % 360}, 55%, var(--point-lightness))`);
      return button;
    }));
  }

  /** The loudest sample of each part of the recording. */
  draw() {
    this.found.peaks.forEach((peak, i) => this.wave.append(svg("rect", { x: i, y: 50 - 50 * peak, width: 0.8, height: Math.max(1, 100 * peak) })));
  }

  listen(at) {
    this.audio.currentTime = at;
    this.audio.play();
    this.move();
  }

  move() {
    this.cursor.style.left = `${(100 * this.audio.currentTime) / this.found.duration_s}%`;
  }

  /** NIST's Rich Transcription Time Marked form, a line a turn; blanks in names become underlines. */
  rttm() {
    const word = (text) => text.split(/\s+/).join("_");
    return this.found.turns.map((turn) => `SPEAKER ${word(stem(this.name))} 1 ${turn.start_s.toFixed(3)} ${(turn.end_s - turn.start_s).toFixed(3)} <NA> <NA> `
      + `${word(this.names.get(turn.speaker))} ${turn.confidence.toFixed(3)} <NA>\n`).join("");
  }

  save() {
    const url = URL.createObjectURL(new Blob([this.rttm()], { type: "text/plain" }));
    element("a", { href: url, download: `${stem(this.name)}.rttm` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}
