// Shows the options of this pack's lists, and what an empty text box says, in the user's language: the frontend
// translates neither. Values stay as they are, in files and in the queue.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const PREFIX = "LuminaMGPT2_";

// locales/<locale>/nodeDefs.json of all packs by locale; an input of this pack may have `options` and `placeholder`.
let translations = {};

function translateOptions(widget, options) {
  const labels = new Map(Object.entries(options));
  widget.options.getOptionLabel = (value) => labels.get(value) ?? value ?? "";
}

app.registerExtension({
  name: "LuminaMGPT2.Labels",
  // The frontend waits for this before it makes nodes.
  async init() {
    translations = await api.getCustomNodesI18n();
  },
  nodeCreated(node) {
    const locale = app.extensionManager.setting.get("Comfy.Locale");
    if (locale === "en" || !node.comfyClass?.startsWith(PREFIX)) return;
    const inputs = translations[locale]?.nodeDefs?.[node.comfyClass]?.inputs ?? {};
    for (const widget of node.widgets ?? []) {
      const { name, options, placeholder = name } = inputs[widget.name] ?? {};
      if (options) translateOptions(widget, options);
      if (widget.element && placeholder) widget.element.placeholder = placeholder; // nodes drawn by Vue show the name
    }
  },
});
