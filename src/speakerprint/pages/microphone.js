"use strict";
/* What runs beside the sound: a tenth of a second of the first channel at a time, as samples of 16 bits. */

registerProcessor("microphone", class extends AudioWorkletProcessor {
  constructor() {
    super();
    this.samples = new Int16Array(Math.round(sampleRate / 10));
    this.n = 0;
  }

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.samples[this.n++] = Math.max(-32768, Math.min(32767, Math.round(32768 * sample)));
      if (this.n === this.samples.length) {
        this.port.postMessage(this.samples.slice().buffer);
        this.n = 0;
      }
    }
    return true;
  }
});
