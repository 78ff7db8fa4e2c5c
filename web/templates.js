// Puts the example workflows of this pack in order on the templates page. The server lists them unsorted.
import { api } from "../../scripts/api.js";

const ORDER = [
  "Text to image",
  "Best of 8",
  "Image and depth map",
  "Depth to image",
  "Canny to image",
  "Image to depth map",
  "Subject in a new image",
  "Edit over three turns",
  "Continue a picture",
  "Inpaint a picture",
  "Outpaint a picture",
  "Negative prompt",
  "Wear a LoRA",
  "Think before drawing",
];

// The pack's folder in custom_nodes: this script is served as /extensions/<folder>/templates.js.
const FOLDER = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-2));

function place(name) {
  const index = ORDER.indexOf(name);
  return index < 0 ? ORDER.length : index;
}

const getTemplates = api?.getWorkflowTemplates;
if (getTemplates) {
  api.getWorkflowTemplates = async function (...given) {
    const templates = await getTemplates.apply(this, given);
    const ours = templates?.[FOLDER];
    return Array.isArray(ours) ? { ...templates, [FOLDER]: [...ours].sort((a, b) => place(a) - place(b)) } : templates;
  };
}
