// Shows what the pack's own route answers and what its own event tells, as scripts of packs do it.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const show = (id, text) => {
  const line = Object.assign(document.createElement("p"), { id, textContent: text });
  document.body.append(line);
};

app.registerExtension({
  name: "worker.test.page",
  async setup() {
    api.addEventListener("qiw_page.greeted", ({ detail }) => show("pack-event", detail.name));
    const answer = await api.fetchApi("/qiw_page/greet", { method: "POST", body: JSON.stringify({ name: "page" }) });
    show("pack-greeting", (await answer.json()).greeting);
  },
});
