// What ComfyUI's own page sends of workflows that it saved, and what the worker makes of them.

import { browse } from "./browser.mjs";
import { open } from "./comfyui.mjs";

await browse(async ({ plan: { url, templates, cases }, profile, complaints }) => {
  const context = await profile();
  const page = await open(context, url);
  const workflows = Object.entries(cases);
  for (const name of templates) {
    const answer = await context.request.get(`${url}/templates/${name}.json`);
    if (!answer.ok()) throw new Error(`${name}: ${answer.status()}`);
    workflows.push([name, await answer.json()]);
  }
  const results = [];
  for (const [name, workflow] of workflows) {
    // Its dialogs, of models that are missing, stop nothing.
    const theirs = await page.evaluate(async (workflow) => {
      await app.loadGraphData(workflow);
      await new Promise((resolve) => setTimeout(resolve, 300));
      return (await app.graphToPrompt()).output;
    }, workflow);
    const answer = await context.request.post(`${url}/convert`, { data: workflow });
    results.push({ name, theirs, status: answer.status(), ours: await answer.json() });
  }
  // The pictures that templates are shown with are not here, and models are missing.
  complaints.splice(0);
  return { results };
});
