"use strict";
const conversation = JSON.parse(byId("data").textContent);
const clock = (at) => `${Math.floor(at / 60)}:${String(Math.floor(at % 60)).padStart(2, "0")}`;

document.title = byId("title").textContent = `Who spoke when: ${conversation.name}`;
byId("about").textContent = `${clock(conversation.duration_s)} minutes, ${conversation.turns.length ? summary(conversation) : "nobody speaks"}`;
byId("about").append(...doubtful(conversation.doubts));
byId("cut").hidden = conversation.heard_s === null;
byId("cut").textContent = `The first ${clock(conversation.heard_s ?? 0)} minutes can be listened to: this file holds no more audio. The turns are of all.`;
new Timeline(byId("timeline"), conversation, conversation.name, `data:audio/ogg;base64,${conversation.audio}`);
