// The dialogs: one person in detail, and the cameras. A classic script like app.js, loaded after it: both share one scope.
"use strict";

let open = -1;
let removing = null;

// ---------------------------------------------------------------- detail

async function showDetail(index) {
  const hit = hits[index];
  if (!hit) return;
  open = index;
  $("detail-title").textContent = `${verdict(hit)}${hit.probability === null ? "" : " match"} · ${hit.camera}`;
  $("detail-bar").replaceChildren(bar(hit));
  facts(hit, hit.captured_at);
  $("detail-track").replaceChildren();
  $("detail-error").textContent = "";
  $("detail-prev").disabled = index === 0;
  $("detail-next").disabled = index === hits.length - 1;
  if (!$("detail").open) $("detail").showModal();
  stage(hit.thumbnail);
  try {
    const view = await json("GET", `/v1/sightings/${hit.sighting_id}`);
    if (open !== index) return;
    $("detail-track").replaceChildren(...view.track.map((n) => {
      const image = el("img", { alt: "" });
      picture(n.thumbnail).then((url) => { image.src = url; }, () => {});
      return el("button", { type: "button", "aria-pressed": n.sighting_id === hit.sighting_id,
        "aria-label": `Picture taken ${time(n.captured_at)}`,
        onclick: (event) => {
          for (const b of $("detail-track").children) b.setAttribute("aria-pressed", b === event.currentTarget);
          stage(n.thumbnail);
          facts(hit, n.captured_at);
        } }, image, time(n.captured_at));
    }));
  } catch (error) {
    if (open === index) $("detail-error").textContent = error.message;
  }
}

function stage(path) {
  $("detail-image").dataset.path = path;
  picture(path).then((url) => {
    if ($("detail-image").dataset.path === path) $("detail-image").src = url;
  }, () => { $("detail-error").textContent = "The picture is not available."; });
}

function facts(hit, taken) {
  const rows = [
    ["Picture", `${day(taken)} ${time(taken)}`],
    ["In view", `${time(hit.first_seen)} to ${time(hit.last_seen)}`],
    ...(hit.phrases.length ? [["Said of", phraseWords(hit)]] : []),
    ["Why", why(hit)],
    ["Sighting", hit.sighting_id],
  ];
  $("detail-facts").replaceChildren(...rows.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
}

$("detail").addEventListener("close", () => { const at = open; open = -1; focusCard(at); });
$("detail-close").addEventListener("click", () => $("detail").close());
$("detail-prev").addEventListener("click", () => showDetail(open - 1));
$("detail-next").addEventListener("click", () => showDetail(open + 1));
$("detail").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft" && open > 0) showDetail(open - 1);
  if (event.key === "ArrowRight" && open < hits.length - 1) showDetail(open + 1);
});
$("detail-like").addEventListener("click", () => {
  like = hits[open];
  $("query").value = "";
  $("detail").close();
  showLike();
  search();
});

function showLike() {
  $("like").hidden = !like;
  if (like) picture(like.thumbnail).then((url) => { $("like-image").src = url; }, () => {});
}
$("like-clear").addEventListener("click", () => { like = null; showLike(); search(); });

// ---------------------------------------------------------------- adding and removing cameras

function showManager() {
  $("manager-list").replaceChildren(...cameras.map((camera) => {
    const [kind, word] = STATES[camera.state];
    const detail = detailOf(camera);
    return el("li", {}, el("span", { className: `dot ${kind}` }), el("b", {}, camera.id),
      el("button", { type: "button", className: "danger", "aria-label": `Remove camera ${camera.id}`,
        onclick: () => askRemoval(camera) }, "Remove…"),
      el("small", {}, `${word}${detail ? ` · ${detail}` : ""} · ${camera.url ?? ""}`));
  }));
}

$("manage").addEventListener("click", () => { showManager(); $("manager-error").textContent = $("manager-status").textContent = ""; $("manager").showModal(); });
$("manager-close").addEventListener("click", () => $("manager").close());
$("add").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await call("POST", "/v1/cameras", { id: $("add-id").value.trim(), url: $("add-url").value.trim() });
    $("add").reset();
    $("manager-error").textContent = "";
    await refreshCameras();
  } catch (error) {
    $("manager-error").textContent = error.message;
  }
});

function askRemoval(camera) {
  removing = camera.id;
  $("confirm-title").textContent = `Remove the camera ${camera.id}?`;
  $("confirm-keep").hidden = camera.archived;
  $("confirm").showModal();
  $("confirm-cancel").focus();
}

async function remove(keep) {
  $("confirm").close();
  try {
    const removal = await json("DELETE", `/v1/cameras/${removing}${keep ? "?keep=true" : ""}`);
    $("manager-error").textContent = "";
    // Its people are hidden from now on, however long the erasure takes.
    await refreshCameras();
    if (lastBody) search();
    if (removal.erasure) await followErasure(removal.camera, removal.erasure);
  } catch (error) {
    $("manager-error").textContent = error.message;
  }
}
/** Shows how far an erasure has come, until it is done. It goes on when this page is closed. */
async function followErasure(camera, job) {
  const status = $("manager-status");
  while (job.state !== "done") {
    const trouble = job.state === "failed" ? ` Not finished yet, the server tries again: ${job.error}` : "";
    status.textContent = `Erasing the people of ${camera}: ${Math.floor(job.progress * 100)} %.${trouble}`;
    await new Promise((resolve) => setTimeout(resolve, 1000));
    job = await json("GET", `/v1/erasures/${job.id}`);
  }
  status.textContent = `${camera} is removed; ${job.receipt.sightings} pictures of people are erased (receipt ${job.id}).`;
}
$("confirm-keep").addEventListener("click", () => remove(true));
$("confirm-erase").addEventListener("click", () => remove(false));
$("confirm-cancel").addEventListener("click", () => $("confirm").close());
