"use strict";
/* Who is speaking now: the microphone's samples go to the server as they are made, and turns come back. */

const SHOWN = 200; // turns
const clock = (at) => `${Math.floor(at / 60)}:${(at % 60).toFixed(1).padStart(4, "0")}`;

class Live {
  constructor(stream, context) {
    Object.assign(this, { stream, context });
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/api/listen?sample_rate_hz=${context.sampleRate}`);
    this.socket.addEventListener("message", ({ data }) => this.heard(JSON.parse(data)));
    this.socket.addEventListener("close", ({ code, reason }) => this.close(code === 1000 ? "" : reason || "The server has closed the connection"));
    const microphone = new AudioWorkletNode(context, "microphone", { numberOfOutputs: 0 });
    microphone.port.addEventListener("message", ({ data }) => { if (this.socket.readyState === WebSocket.OPEN) this.socket.send(data); });
    microphone.port.start();
    context.createMediaStreamSource(stream).connect(microphone);
  }

  heard({ kind, time_s: at, speaker, doubts }) {
    byId("listen-doubts").replaceChildren(...doubtful(doubts));
    if (kind === "end") {
      if (at === this.startedAt) this.row.remove(); // it turned out to be somebody else's
      else this.row.append(element("span", { className: "quiet", textContent: `until ${clock(at)}` }));
      byId("speaking").textContent = "";
      return;
    }
    this.startedAt = at;
    this.row = element("li", {}, element("span", { className: "quiet", textContent: clock(at) }), element("span", { className: "name", textContent: speaker }));
    byId("turns").prepend(this.row);
    byId("turns").children[SHOWN]?.remove();
    byId("speaking").textContent = speaker;
  }

  /** Stops the microphone; the server answers with what is left, and closes. */
  stop() {
    for (const track of this.stream.getTracks()) track.stop();
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send("end");
    else this.socket.close();
  }

  close(problem) {
    for (const track of this.stream.getTracks()) track.stop();
    this.context.close();
    byId("speaking").textContent = "";
    byId("listen-problem").textContent = problem;
    show(null);
  }
}

let live = null;

function show(now) {
  live = now;
  byId("listen-button").textContent = now ? "Stop" : "Listen";
  byId("listen-button").classList.toggle("recording", now !== null);
}

async function listen() {
  if (live) return live.stop();
  byId("listen-problem").textContent = "";
  byId("turns").replaceChildren();
  byId("listen-doubts").replaceChildren();
  byId("listen-button").disabled = true;
  try {
    // what calls do to a voice is left out: other recordings have not been through it
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
    const context = new AudioContext();
    await context.audioWorklet.addModule("/static/microphone.js");
    show(new Live(stream, context));
  } catch (error) {
    byId("listen-problem").textContent = `The microphone cannot be used: ${error.message}`;
  }
  byId("listen-button").disabled = false;
  return undefined;
}

byId("listen-button").addEventListener("click", listen);
if (!navigator.mediaDevices) Object.assign(byId("listen-button"), { disabled: true, title: "Browsers offer the microphone to https and to this machine only" });
