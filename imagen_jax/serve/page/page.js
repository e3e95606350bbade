// Asks the server to paint, shows what becomes of it, and remembers what was asked.

import { Brush, COLOURS } from "./brush.js";

const $ = (id) => document.getElementById(id);
const ENDED = ["done", "failed", "cancelled"];
const MOST_WATCHED = 16; // That the server tells of at once.
const REMEMBERED = "imagen-jax jobs";
const brush = new Brush($("picture"), $("drawing"), $("mask"), () => ({
  layer: $("layer").value,
  colour: document.querySelector("#colours :checked").value,
  width: Number($("width").value),
  erase: $("eraser").checked,
}));
const jobs = new Map(); // What the server said last of each job, the oldest first.
let about, current, stream, hasPicture = false;

// The server.

async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Error("The server does not answer; is it still running?");
  }
  const text = await answer.text();
  let said;
  try {
    said = JSON.parse(text);
  } catch {
    said = { error: text };
  }
  if (!answer.ok) throw Object.assign(new Error(said.error || answer.statusText), { status: answer.status });
  return said;
}

function watch() {
  stream?.close();
  const unfinished = [...jobs.values()].filter((job) => !ENDED.includes(job.state));
  const open = unfinished.slice(0, MOST_WATCHED).map((job) => job.id);
  if (!open.length) return;
  stream = new EventSource(`api/events?${open.map((id) => `job=${encodeURIComponent(id)}`).join("&")}`);
  stream.onmessage = (event) => {
    const job = JSON.parse(event.data);
    if (jobs.has(job.id)) take(job);  // One that was removed stays so.
  };
  stream.addEventListener("end", () => {
    stream.close();
    open.map((id) => jobs.get(id)).filter((job) => job && !ENDED.includes(job.state)).forEach(giveUp);
    watch();
  });
  stream.onerror = () => {
    if (jobs.get(current) && !ENDED.includes(jobs.get(current).state))
      $("status").textContent = "The connection is lost; trying again …";
  };
}

// A server that was started again knows nothing of what was asked before.
function giveUp(job) {
  take({ ...job, state: "failed", error: "The server was started again; ask once more." });
}

function take(job) {
  jobs.set(job.id, job);
  if (job.id === current) showCurrent();
  showHistory();
}

// What the browser remembers; a window that may not store anything forgets.

function remember() {
  try {
    localStorage.setItem(REMEMBERED, JSON.stringify([...jobs.keys()]));
  } catch { /* As above. */ }
}

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(REMEMBERED)) || [];
  } catch {
    return [];
  }
}

// The form.

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
}

function fillForm() {
  const sides = about.stages.map((stage) => stage.side);
  $("model").textContent = `${about.stages.map((stage) => stage.name).join(" → ")}`;
  options($("count"), Array.from({ length: about.max_images }, (_, i) => [i + 1, i + 1]));
  options($("size"), sides.map((side, i) => [i + 1, side]));
  $("size").value = sides.length;
  options($("aspect"), [["", "auto"], ...Object.keys(about.aspects).map((aspect) => [aspect, aspect])]);
  options($("strength"), [["", "auto"], ...about.strengths.map((x) => [x, x])]);
  options($("use"), [["", "is the picture to edit"], ...about.shown.map(({ name }) => [name, `is shown to the network as ${name}`])]);
  $("uses").hidden = !about.shown.length;
  $("stages").replaceChildren(...about.stages.map(stageRow));
  $("seed").value = newSeed();
  if (about.words) fillWords(about.words);
}

function fillWords({ things, colours, backgrounds, styles }) {
  const lines = [
    ...things.map((names) => names.map((name) => [name, name])),
    colours.map((colour) => [colour, colour]),
    backgrounds.map((colour) => [`… on a ${colour} background`, `on a ${colour} background`]),
    styles.map((style) => [`…, ${style} style`, `, ${style} style`]),
  ];
  $("known").replaceChildren(...lines.filter((line) => line.length).map(wordLine));
  $("words").hidden = false;
}

function wordLine(pairs) {
  const line = Object.assign(document.createElement("p"), { className: "words" });
  line.replaceChildren(...pairs.map(([shown, added]) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: shown });
    button.addEventListener("click", () => addToPrompt(added));
    return button;
  }));
  return line;
}

function addToPrompt(words) {
  const before = $("prompt").value.trimEnd();
  $("prompt").value = before && !words.startsWith(",") ? `${before} ${words}` : `${before}${words}`;
  countLetters();
}

function stageRow(stage, index) {
  const row = document.createElement("tr");
  const steps = document.createElement("select");
  options(steps, [["", `${stage.steps}`], ...about.steps.filter((x) => x !== stage.steps).map((x) => [x, x])]);
  const guidance = Object.assign(document.createElement("input"), {
    type: "number", step: "any", min: -100, max: 100, placeholder: stage.guidance_scale,
  });
  steps.id = `steps-${index}`;
  guidance.id = `guidance-${index}`;
  steps.setAttribute("aria-label", `Steps at ${stage.side} pixels`);
  guidance.setAttribute("aria-label", `Guidance at ${stage.side} pixels`);
  for (const content of [stage.side, steps, guidance]) row.insertCell().append(content);
  return row;
}

function newSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

const numberOrNull = (text) => (text === "" ? null : Number(text));

function order() {
  const stages = Number($("size").value);
  const each = (name) => Array.from({ length: stages }, (_, i) => numberOrNull($(`${name}-${i}`).value));
  return {
    prompt: $("prompt").value,
    seed: Number($("seed").value),
    num_images: Number($("count").value),
    stages,
    steps: each("steps"),
    guidance_scale: each("guidance"),
    aspect: $("aspect").value || null,
    ...(hasPicture && onCanvas()),
  };
}

// What the stages are shown, if they are shown what is on the canvas; undefined where it is edited.
const shownAs = () => about.shown.find(({ name }) => name === $("use").value);

function onCanvas() {
  const shown = shownAs();
  if (shown) return { shown: { [shown.name]: brush.image(shown.kind === "labels" ? about.palette : []) } };
  return { image: brush.image(), mask: brush.maskImage(), strength: numberOrNull($("strength").value) };
}

function useSettings({ order }) {
  $("prompt").value = order.prompt;
  $("seed").value = order.seed;
  $("fresh").checked = false;
  $("count").value = order.num_images;
  $("size").value = order.stages;
  $("aspect").value = order.aspect ?? "";
  $("strength").value = order.strength ?? "";
  about.stages.forEach((_, i) => {
    $(`steps-${i}`).value = order.steps[i] ?? "";
    $(`guidance-${i}`).value = order.guidance_scale[i] ?? "";
  });
  countLetters();
  $("prompt").focus();
}

function countLetters() {
  const count = [...$("prompt").value].length;
  $("letters").textContent = `${count.toLocaleString("en")} / ${about.max_letters.toLocaleString("en")}`;
  $("letters").classList.toggle("over", count > about.max_letters);
}

function complain(text) {
  $("message").textContent = text ?? "";
  $("message").hidden = !text;
}

async function paint(event) {
  event.preventDefault();
  complain("");
  $("paint").disabled = true;
  try {
    const job = await ask("api/jobs", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(order()),
    });
    current = job.id;
    complain(job.notice);
    take(job);
    remember();
    watch();
    if ($("fresh").checked) $("seed").value = newSeed();
  } catch (error) {
    complain(error.message);
  } finally {
    $("paint").disabled = false;
  }
}

// The picture to edit.

async function edit(file) {
  complain("");
  try {
    await brush.load(file);
  } catch {
    complain(`${file.name || "The file"} is no picture that this browser can read.`);
    return;
  }
  startEditing("mask", "");
}

// As large as the base paints in the chosen format.
function drawOnBlank() {
  const side = about.stages[0].side;
  const [height, width] = about.aspects[$("aspect").value] ?? [side, side];
  brush.blank(width, height);
  startEditing("drawing", about.shown[0]?.name ?? "");
  $("mask").focus();
}

function startEditing(layer, use) {
  hasPicture = true;
  $("edit").open = true;
  $("canvases").hidden = false;
  $("drop").hidden = $("blank").hidden = true;
  $("eraser").checked = false;
  $("layer").value = layer;
  $("use").value = use;
  showUse();
}

function dropPicture() {
  hasPicture = false;
  $("file").value = "";
  $("canvases").hidden = true;
  $("drop").hidden = $("blank").hidden = false;
}

function showUse() {
  const shown = shownAs();
  if (shown) $("layer").value = "drawing";
  const colours = shown?.kind === "labels" ? about.palette.map((colour) => [colour, colour]) : Object.entries(COLOURS);
  $("colours").replaceChildren($("colours").firstElementChild, ...colours.map(colourChoice));
  showLayer();
}

function showLayer() {
  const { use, layer } = { use: shownAs() ? "shown" : "edit", layer: $("layer").value };
  for (const element of document.querySelectorAll("[data-layer], [data-use]"))
    element.hidden = [[element.dataset.layer, layer], [element.dataset.use, use]].some(([own, now]) => own && own !== now);
}

function colourChoice([name, value], index) {
  const input = Object.assign(document.createElement("input"), {
    type: "radio", name: "colour", value, title: name, checked: index === 0,
  });
  input.style.backgroundColor = value;
  input.setAttribute("aria-label", name);
  return input;
}

async function retouch() {
  const job = jobs.get(current);
  const answer = await fetch(fileOf(job, job.shown[0]));
  if (answer.ok) await edit(await answer.blob());
  $("edit").scrollIntoView({ block: "nearest" });
}

// What has come of it.

const fileOf = (job, name) => `api/jobs/${job.id}/${encodeURIComponent(name)}`;

function statusOf(job) {
  const { stage, stages, step, num_steps } = job.progress;
  if (job.cancelling) return "Stopping at the next step …";
  switch (job.state) {
    case "waiting": return job.before ? `Waiting; ${job.before} before this one.` : "Waiting …";
    case "painting":
      if (step === undefined) return "Loading and compiling; the first time takes a minute or more …";
      return `Stage ${stage + 1} of ${stages}, step ${step} of ${num_steps}`;
    case "failed": return job.error;
    case "cancelled": return "Cancelled.";
    default: return `Seed ${job.order.seed}`;
  }
}

function shareOf(job) {
  const { stage, stages, step, num_steps } = job.progress;
  return step === undefined ? 0 : (stage + step / num_steps) / stages;
}

function showCurrent() {
  const job = jobs.get(current);
  $("empty").hidden = Boolean(job);
  $("current").hidden = !job;
  $("cancel").hidden = !job || ENDED.includes(job.state);
  if (!job) return;
  $("title").textContent = job.order.prompt || "No prompt";
  $("status").textContent = statusOf(job);
  $("status").classList.toggle("failed", job.state === "failed");
  $("bar").hidden = ENDED.includes(job.state);
  if (job.state === "painting" && job.progress.step === undefined) $("bar").removeAttribute("value");
  else $("bar").value = shareOf(job);
  const done = job.state === "done";
  showPictures(done ? job.shown.map((name) => fileOf(job, name)) : job.preview, job, done);
  $("actions").hidden = !done;
  showCommand(done ? job.command : "");
  if (done) $("download").href = `${fileOf(job, "pictures.zip")}?download`;
}

// A line may break before a flag, and within a long prompt.
function showCommand(command) {
  const parts = command ? command.split(/ (?=--)/) : [];
  $("command").replaceChildren(...parts.flatMap((part, i) => {
    const span = Object.assign(document.createElement("span"), { textContent: part });
    return i ? [" ", span] : [span];
  }));
}

function showPictures(addresses, job, done) {
  const shown = [...$("pictures").querySelectorAll("img")];
  if (shown.length === addresses.length && Boolean($("pictures").dataset.done) === done) {
    shown.forEach((image, i) => { if (image.getAttribute("src") !== addresses[i]) image.src = addresses[i]; });
    return;
  }
  $("pictures").dataset.done = done ? "yes" : "";
  $("pictures").replaceChildren(...addresses.map((address, i) => {
    const image = new Image();
    image.src = address;
    image.alt = `${job.order.prompt || "Picture"}, ${i + 1} of ${addresses.length}`;
    if (!done) return image;
    const link = Object.assign(document.createElement("a"), { href: address, target: "_blank", rel: "noopener" });
    link.append(image);
    return link;
  }));
}

function showHistory() {
  const items = [...jobs.values()].reverse().map((job) => {
    const item = document.createElement("li");
    const open = Object.assign(document.createElement("button"), { type: "button", className: "open" });
    open.setAttribute("aria-current", job.id === current);
    const words = Object.assign(document.createElement("span"), { className: "words", textContent: job.order.prompt });
    open.append(thumbnail(job), words);
    open.onclick = () => { current = job.id; showCurrent(); showHistory(); $("result").scrollIntoView({ block: "nearest" }); };
    const forget = Object.assign(document.createElement("button"), { type: "button", className: "forget", textContent: "×" });
    forget.setAttribute("aria-label", `Forget ${job.order.prompt}`);
    forget.onclick = () => forgetJob(job);
    item.append(open, ...(ENDED.includes(job.state) ? [forget] : []));
    return item;
  });
  // Built anew only where something is seen to change: a preview keeps coming.
  const key = [...jobs.values()].map((job) => `${job.id} ${job.state}`).join() + current;
  if ($("history").dataset.key === key) return;
  $("history").dataset.key = key;
  $("history").replaceChildren(...items);
}

function thumbnail(job) {
  if (job.state !== "done")
    return Object.assign(document.createElement("span"), { className: "blank", textContent: job.state });
  return Object.assign(new Image(), { src: fileOf(job, job.shown[0]), alt: "", loading: "lazy" });
}

async function forgetJob(job) {
  await ask(`api/jobs/${job.id}`, { method: "DELETE" }).catch(() => {});
  jobs.delete(job.id);
  if (current === job.id) current = undefined;
  remember();
  showCurrent();
  showHistory();
}

async function copyCommand() {
  const text = $("command").textContent;
  try {
    await navigator.clipboard.writeText(text);
    $("copy").textContent = "Copied";
  } catch { // Outside of localhost and https a page may not.
    getSelection().selectAllChildren($("command"));
    $("copy").textContent = "Selected; press Ctrl+C";
  }
  setTimeout(() => { $("copy").textContent = "Copy as command"; }, 2000);
}

// The beginning.

async function restore() {
  for (const id of remembered()) {
    try {
      jobs.set(id, await ask(`api/jobs/${encodeURIComponent(id)}`));
    } catch (error) {
      if (error.status !== 404) throw error;
    }
  }
  current = [...jobs.keys()].pop();
  remember();
  showCurrent();
  showHistory();
  watch();
}

$("form").addEventListener("submit", paint);
$("prompt").addEventListener("input", countLetters);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
$("cancel").onclick = () => ask(`api/jobs/${current}/cancel`, { method: "POST" }).then(take).catch((error) => complain(error.message));
$("file").onchange = () => $("file").files[0] && edit($("file").files[0]);
$("clear").onclick = () => brush.clear();
$("undo").onclick = () => brush.undo();
$("layer").onchange = showLayer;
$("use").onchange = showUse;
$("blank").onclick = drawOnBlank;
$("drop-picture").onclick = dropPicture;
$("retouch").onclick = retouch;
$("again").onclick = () => useSettings(jobs.get(current));
$("copy").onclick = copyCommand;
document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) edit(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files[0]) edit(event.clipboardData.files[0]);
});

ask("api/about").then(async (said) => {
  about = said;
  fillForm();
  countLetters();
  await restore();
}).catch((error) => complain(error.message));
