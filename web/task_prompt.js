// Hides the widgets of Lumina Prompt that its task does not use. Hidden widgets keep their place and value.
import { app } from "../../scripts/app.js";

const NODE = "LuminaMGPT2_TaskPrompt";

function linkOf(node, name) {
  const id = node.inputs?.find((input) => input.name === name)?.link;
  return id == null ? null : { isFromOutside: Boolean(node.graph?.getLink?.(id)?.originIsIoNode) };
}

// Widget options in the schema: `lumina_tasks` lists the tasks that use the widget; `lumina_hidden_by` names the input
// that replaces it. A linked task may be any; nothing may arrive at an input of the subgraph that the node is in.
function isUnused(node, { lumina_tasks: tasks, lumina_hidden_by: replacement }) {
  const task = node.widgets.find((widget) => widget.name === "task").value;
  const isOfOtherTask = tasks && !tasks.includes(task) && !linkOf(node, "task");
  return Boolean(isOfOtherTask || linkOf(node, replacement)?.isFromOutside === false);
}

function setHidden(widget, hidden) {
  widget.hidden = hidden; // nodes drawn on the canvas
  widget.options.hidden = hidden; // nodes drawn by Vue
}

function redraw(node) {
  node.widgets.push(node.widgets.pop()); // Vue watches the list, not the options of its widgets
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
  node.setDirtyCanvas(true, true);
}

function update(node, optionsOf) {
  for (const widget of node.widgets) {
    const options = optionsOf[widget.name];
    if (options) setHidden(widget, isUnused(node, options) && !linkOf(node, widget.name));
  }
  redraw(node);
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
