// Hides the widgets of Task Prompt that its task does not use. Hidden widgets keep their place and value.
import { app } from "../../scripts/app.js";

const NODE = "LuminaMGPT2_TaskPrompt";

// Widget options in the schema: `lumina_tasks` lists the tasks that use the widget; `lumina_hidden_by` names the input
// that replaces it.
function isUnused(node, { lumina_tasks: tasks, lumina_hidden_by: replacement }) {
  const task = node.widgets.find((widget) => widget.name === "task").value;
  const isConnected = node.inputs?.some((input) => input.name === replacement && input.link != null);
  return Boolean((tasks && !tasks.includes(task)) || isConnected);
}

function setHidden(widget, hidden) {
  widget.hidden = hidden; // nodes drawn on the canvas
  widget.options.hidden = hidden; // nodes drawn by Vue
}

function update(node, optionsOf) {
  for (const widget of node.widgets ?? []) {
    const options = optionsOf[widget.name];
    const isWired = node.inputs?.some((input) => input.widget?.name === widget.name && input.link != null);
    if (options) setHidden(widget, isUnused(node, options) && !isWired);
  }
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
  node.setDirtyCanvas(true, true);
}

function chain(target, name, then) {
  const before = target[name];
  target[name] = function (...given) {
    const result = before?.apply(this, given);
    then.call(this);
    return result;
  };
}

app.registerExtension({
  name: "LuminaMGPT2.TaskPrompt",
  beforeRegisterNodeDef(nodeType, { name, input }) {
    if (name !== NODE) return;
    const inputs = Object.entries({ ...input.required, ...input.optional });
    const optionsOf = Object.fromEntries(
      inputs
        .map(([key, [, options]]) => [key, options ?? {}])
        .filter(([, options]) => options.lumina_tasks || options.lumina_hidden_by),
    );
    const refresh = function () {
      update(this, optionsOf);
    };
    chain(nodeType.prototype, "onNodeCreated", function () {
      chain(this.widgets.find((widget) => widget.name === "task"), "callback", () => update(this, optionsOf));
      refresh.call(this);
    });
    chain(nodeType.prototype, "onConfigure", refresh);
    chain(nodeType.prototype, "onConnectionsChange", refresh);
  },
});
