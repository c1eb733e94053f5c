"use strict";
// Text of users and models only ever becomes textContent or a field's value, never markup.

const byId = (id) => document.getElementById(id);
const messages = []; // the conversation, as the API takes it
const held = new Set(); // places of messages of which anything was kept on the device
const keep = new Set(); // numbers of the parts under review that are kept
let running = null; // AbortController of the answer under way
let model = "";
let reviewed = null; // the text whose parts are shown
let shown = 0; // counts previews, so that a late one is not taken for the newest

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function headers() {
  const key = byId("key").value.trim();
  const told = { "content-type": "application/json" };
  if (key) told.authorization = `Bearer ${key}`;
  return told;
}

async function ask(path, body, signal) {
  const response = await fetch(path, {
    method: body ? "POST" : "GET",
    headers: headers(),
    body: body && JSON.stringify(body),
    signal,
  });
  if (response.ok) return response;
  let told = `The server answered ${response.status}.`;
  try {
    told = (await response.json()).error.message;
  } catch { /* no body of ours */ }
  if (response.status === 401) byId("key-box").open = true;
  throw new Error(told);
}

function fail(problem) {
  byId("error").textContent = problem.name === "AbortError" ? "" : problem.message;
}

async function look() {
  try {
    const { data } = await (await ask("/v1/models")).json();
    const names = data.filter((each) => !each.x_ptmo).map((each) => each.id); // not the encoder
    if (!names.includes(model)) model = names[0];
    byId("model").replaceChildren(...names.map((name) => element("option", "", name)));
    byId("model").value = model;
    byId("model-box").hidden = names.length < 2;
    byId("about").textContent = `Model ${model}`;
    byId("error").textContent = "";
  } catch (problem) {
    byId("about").textContent = "No model yet.";
    fail(problem);
  }
}

function addTurn(role, text) {
  const item = element("li");
  item.dataset.role = role;
  item.append(element("span", "who", role === "user" ? "You" : "Answer"));
  const paragraph = element("p", "", text);
  item.append(paragraph);
  byId("talk").append(item);
  item.scrollIntoView({ block: "nearest" });
  return paragraph;
}

function counted(kinds) {
  return Object.entries(kinds).map(([kind, count]) => `${count} x ${kind}`).join(", ");
}

function partItem(part) {
  const item = element("li");
  item.dataset.level = part.level;
  item.append(element("span", "level", part.level.replace("_", " ")));
  item.append(element("span", "why", ` · ${part.route} · ${part.reasons.join(" · ")}`));
  item.append(element("p", "", part.text));
  if (part.sent === null) {
    item.append(element("p", "why", "Stays on this device."));
    if (!keep.has(part.order)) return item;
  } else {
    item.append(element("p", "why", "Would be sent as:"), element("p", "sent", part.sent));
  }
  const label = element("label");
  const box = element("input", "keep");
  box.type = "checkbox";
  box.checked = keep.has(part.order);
  box.addEventListener("change", () => {
    if (box.checked) keep.add(part.order);
    else keep.delete(part.order);
    show(part.order);
  });
  label.append(box, ` Keep part ${part.order + 1} on this device`);
  item.append(label);
  return item;
}

function messageItem(message) {
  const item = element("li");
  item.append(element("span", "who", message.role));
  if (message.content) item.append(element("p", "sent", message.content));
  if (message.tool_calls) item.append(element("p", "sent", JSON.stringify(message.tool_calls)));
  return item;
}

function review(event) {
  event.preventDefault();
  if (!byId("text").value.trim() || running) return;
  keep.clear();
  show(null);
}

// What would become of the message; `changed` is the part whose box was ticked, if one was.
async function show(changed) {
  const text = byId("text").value;
  const asked = ++shown;
  byId("error").textContent = "";
  byId("send").disabled = true; // what is shown is what is sent
  try {
    if (!model) await look();
    const turn = { role: "user", content: text };
    const wishes = { keep_local: [...keep], keep_messages: [...held] };
    const body = { model, messages: [...messages, turn], x_ptmo: wishes };
    const told = await (await ask("/x-ptmo/preview", body)).json();
    if (asked !== shown) return; // the message or a box was changed meanwhile
    reviewed = text;
    const found = counted(told.found);
    byId("verdict").textContent =
      `${told.level.replace("_", " ")} (${told.score.toFixed(2)}), route ${told.route}` +
      (found ? `: ${found}` : "");
    byId("parts").replaceChildren(...told.segments.map(partItem));
    byId("all").replaceChildren(...(told.request?.messages ?? []).map(messageItem));
    byId("all-title").textContent = told.request
      ? "All that would be sent to the cloud" : "Nothing would be sent to a cloud.";
    byId("review").hidden = false;
    byId("send").disabled = false;
    const box = changed === null ? null : byId("parts").children[changed]?.querySelector(".keep");
    (box ?? byId("review-title")).focus();
  } catch (problem) {
    closeReview();
    fail(problem);
  }
}

function closeReview() {
  shown += 1;
  reviewed = null;
  byId("review").hidden = true;
  byId("parts").replaceChildren();
  byId("all").replaceChildren();
}

function explain(facts) {
  const found = counted(facts.found);
  const masked = counted(facts.masked);
  byId("trace").textContent =
    `Route ${facts.route}, ${facts.level.replace("_", " ")}` +
    (found ? `, found ${found}` : "") + (masked ? `, masked ${masked}` : "") +
    `, ${facts.crossings} TEE crossings, $${facts.cost.usd.toFixed(4)}`;
}

async function* chunksOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The answer broke off.");
    held += value;
    const events = held.split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function send(localOnly) {
  if (reviewed === null || running) return;
  const wishes = {
    route: localOnly ? "local" : "auto",
    keep_local: [...keep],
    keep_messages: [...held],
  };
  if (localOnly || keep.size) held.add(messages.length);
  messages.push({ role: "user", content: reviewed });
  addTurn("user", reviewed);
  byId("text").value = "";
  closeReview();
  running = new AbortController();
  byId("stop").hidden = false;
  byId("talk").setAttribute("aria-busy", "true");
  const paragraph = addTurn("assistant", "");
  let answer = "";
  try {
    const body = { model, messages, stream: true, x_ptmo: wishes };
    const response = await ask("/v1/chat/completions", body, running.signal);
    for await (const chunk of chunksOf(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      answer += chunk.choices[0]?.delta.content ?? "";
      paragraph.textContent = answer;
      if (chunk.x_ptmo) explain(chunk.x_ptmo);
    }
  } catch (problem) {
    fail(problem);
  } finally {
    messages.push({ role: "assistant", content: answer });
    running = null;
    byId("stop").hidden = true;
    byId("talk").setAttribute("aria-busy", "false");
    byId("text").focus();
  }
}

function clear() {
  if (running) running.abort();
  messages.length = 0;
  held.clear();
  closeReview();
  byId("talk").replaceChildren();
  for (const id of ["trace", "error"]) byId(id).textContent = "";
  byId("text").focus();
}

byId("form").addEventListener("submit", review);
byId("text").addEventListener("input", closeReview);
byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) review(event);
});
byId("send").addEventListener("click", () => send(false));
byId("local").addEventListener("click", () => send(true));
byId("refuse").addEventListener("click", () => { closeReview(); byId("text").focus(); });
byId("stop").addEventListener("click", () => running && running.abort());
byId("clear").addEventListener("click", clear);
byId("key").addEventListener("change", look);
byId("model").addEventListener("change", () => {
  model = byId("model").value;
  byId("about").textContent = `Model ${model}`;
  closeReview(); // another model may write another draft
});
look();
