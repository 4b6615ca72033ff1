// Tells what /health says until ComfyUI is ready, and then loads the page that was asked for.

const HEALTH = new URL("../health", import.meta.url);
const EVERY_MS = 1500;
const element = (id) => document.getElementById(id);

// With a pause, as the page may be this one again.
function loadSoon() {
  setTimeout(() => location.reload(), EVERY_MS);
}

// Only what changes is written, so that a screen reader says each thing once.
function say(id, text) {
  const at = element(id);
  at.hidden = !text;
  if (at.textContent !== text) at.textContent = text;
}

function show({ comfyui, models }) {
  const failed = comfyui.state === "failed";
  let title = "ComfyUI starts";
  let what = "This page goes on by itself as soon as it is there.";
  if (failed) {
    title = "ComfyUI cannot be started";
    what = "This page goes on by itself once that is mended.";
  } else if (comfyui.state === "suspended") {
    title = "ComfyUI is suspended";
    what = "Its process was stopped from outside; it goes on when it is continued.";
  } else if (comfyui.state === "stopping") {
    title = "The worker stops";
  } else if (!comfyui.version) {
    title = "ComfyUI is being installed";
    what = "That happens once and fetches several gigabytes. " + what;
  }
  say("title", title);
  document.title = title;
  say("what", what);
  say("reason", failed ? comfyui.reason : "");
  const download = models.download;
  let fetching = "";
  if (download) {
    const percent = download.percent === undefined ? "" : `: ${download.percent} %`;
    fetching = `Models are downloaded (${models.present} of ${models.wanted} are there)${percent}`;
  } else if (models.failed) {
    fetching = `A model could not be had. ${models.failed[0].error ?? ""}`;
  }
  say("models", fetching);
  const bar = element("bar");
  bar.hidden = failed;
  if (download?.percent === undefined) bar.removeAttribute("value");
  else bar.value = download.percent / 100;
}

async function look() {
  let health;
  try {
    const answer = await fetch(HEALTH, { cache: "no-store" });
    if (answer.status === 401 || answer.status === 403) return loadSoon();
    health = await answer.json();
  } catch {
    // The worker is away for a moment, or its health check has this path and tells nothing.
    say("what", "This page looks again every few seconds.");
    health = undefined;
  }
  if (health?.comfyui) {
    if (health.comfyui.state === "ready") return loadSoon();
    show(health);
    setTimeout(look, EVERY_MS);
  } else {
    setTimeout(tryPage, EVERY_MS * 2);
  }
}

async function tryPage() {
  try {
    const answer = await fetch(location.href, { cache: "no-store", headers: { accept: "*/*" } });
    if (answer.ok) return loadSoon();
  } catch {
    // Still away.
  }
  look();
}

look();
