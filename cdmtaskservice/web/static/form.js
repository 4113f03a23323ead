// The form of a job: hints of the chosen site, a count of files, and one submission for one click.

export function startForm() {
  const form = document.getElementById("job-form");
  if (!form) return;
  document.getElementById("summary")?.focus();
  once(form);
  site(document.getElementById("cluster"));
  counting(document.getElementById("input_files"));
}

function once(form) {
  let sent = false;
  form.addEventListener("submit", (event) => {
    // The form carries a key, so that sent twice it makes one job; this only saves the second request.
    if (sent) event.preventDefault();
    sent = true;
    setTimeout(() => (sent = false), 5000);
  });
  addEventListener("pageshow", () => (sent = false));
}

function site(select) {
  if (!select) return;
  select.addEventListener("change", () => {
    const { hint, cpus, gpus } = select.selectedOptions[0].dataset;
    document.getElementById("hint-cluster").textContent = hint ?? "";
    if (cpus) document.getElementById("cpus").max = cpus;
    if (gpus) document.getElementById("gpus").max = gpus;
  });
}

function counting(area) {
  const place = document.getElementById("file-count");
  if (!area || !place) return;
  const show = () => {
    const lines = area.value.split("\n").filter((line) => line.trim()).length;
    place.textContent = lines ? `${lines.toLocaleString("en")} file${lines === 1 ? "" : "s"}` : "";
  };
  area.addEventListener("input", show);
  show();
}
