"""What the browser tests do in the page, in JavaScript: `app` is the frontend, ids of nodes are strings."""

from __future__ import annotations

RECORD_ENDS = """(kinds) => {
  window.ended = {};
  for (const kind of kinds)
    app.api.addEventListener(kind, ({ detail }) => { window.ended[detail.prompt_id] = kind; });
}"""

# What a user does to start anew: closes dialogs and workflows, and opens a blank one.
RESET = """async () => {
  const { command, workflow } = app.extensionManager;
  await command.execute("Comfy.NewBlankWorkflow");
  for (const one of workflow.openWorkflows.filter((one) => !workflow.isActive(one))) await workflow.closeWorkflow(one);
  app.canvas.ds.reset();  // a blank workflow is shown at the zoom of the one before
  return app.graph.nodes.length;
}"""

ADD = """([type, x, y]) => {
  const node = LiteGraph.createNode(type);
  app.graph.add(node);
  node.pos = [x, y];
  app.canvas.setDirty(true, true);
  return String(node.id);
}"""
CONNECT = """([from, output, to, input]) => {
  const [source, target] = [from, to].map((id) => app.graph.getNodeById(Number(id)));
  const slot = (slots, name) => slots.findIndex((one) => one.name === name);
  source.connect(slot(source.outputs, output), target, slot(target.inputs, input));
}"""
NODE = "app.graph.getNodeById(Number(id))"
WIDGETS = f"(id) => Object.fromEntries({NODE}.widgets.map((widget) => [widget.name, widget.value]))"
SLOTS = f"(id) => [{NODE}.inputs, {NODE}.outputs].map((slots) => slots.map((slot) => slot.name))"
IDS = "app.graph.nodes.map((node) => String(node.id))"
NODES_OF = "(kind) => app.graph.nodes.filter((node) => node.type === kind).map((node) => String(node.id))"
# Where a widget of the classic rendering is in the window.
WIDGET_PLACE = f"""([id, name]) => {{
  const node = {NODE}, widget = node.widgets.find((widget) => widget.name === name);
  return app.canvasPosToClientPos([node.pos[0] + 40, node.pos[1] + widget.y + 10]);
}}"""
# The frames in which nodes take the size of what they show.
FRAMES = """async () => {
  for (let frame = 0; frame < 10; frame++) await new Promise(requestAnimationFrame);
}"""
OPTIONS = "[...document.querySelectorAll('[role=option]')].map((one) => one.innerText).filter(Boolean)"
SET_WIDGET = f"""([id, name, value]) => {{
  const widget = {NODE}.widgets.find((widget) => widget.name === name);
  widget.value = value;
  widget.callback?.(value);
}}"""
