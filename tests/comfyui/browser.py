"""ComfyUI's frontend in headless Chromium: one browser, and one tab for each rendering of nodes."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from page_scripts import (
    ADD,
    CONNECT,
    FRAMES,
    IDS,
    NODES_OF,
    OPTIONS,
    RECORD_ENDS,
    RESET,
    SET_WIDGET,
    SLOTS,
    WIDGET_PLACE,
    WIDGETS,
)
from PIL import Image

if TYPE_CHECKING:
    from comfy_server import ComfyServer
    from playwright.sync_api import Page

CLASSIC, VUE = "classic", "nodes 2.0"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": False,
    "Comfy.RightSidePanel.IsOpen": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Locale": "en",
}
SECONDS = 1000.0
EMPTY_PLACE = (900, 820)
TRIES = 10
START, RUN, STEP = 120 * SECONDS, 180 * SECONDS, 30 * SECONDS
END_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass(frozen=True)
class Ended:
    """A run that ended: its prompt in the API format and the server's history of it."""

    prompt: dict
    history: dict

    @property
    def outputs(self) -> dict:
        return self.history["outputs"]

    @property
    def cached(self) -> list[str]:
        """The nodes that were not run, since the server had their results."""
        messages = self.history["status"]["messages"]
        return [node for kind, data in messages if kind == "execution_cached" for node in data["nodes"]]


@dataclass
class Tab:
    """A tab with the frontend, and what a user does in it."""

    page: Page
    server: ComfyServer
    rendering: str
    faults: list[str] = field(default_factory=list)

    def load(self) -> None:
        """Loads the frontend with the settings of the server."""
        settings = {**SETTINGS, "Comfy.VueNodes.Enabled": self.rendering == VUE}
        self.server.post("/settings", settings)
        self.page.goto(self.server.url)
        self.page.wait_for_function("window.app?.graph && document.querySelector('#graph-canvas')", timeout=START)
        self.page.wait_for_selector("[data-testid=queue-button]", timeout=START)
        self.page.evaluate(RECORD_ENDS, END_EVENTS)

    def reset(self) -> None:
        """Leaves one blank workflow."""
        dialogs = self.page.locator(".p-dialog-mask, [data-testid=dialog-overlay]")
        for _ in range(TRIES):
            if dialogs.count():
                self.page.keyboard.press("Escape")
                self.settle()
        assert self.page.evaluate(RESET) == 0
        self.faults.clear()

    def open_file(self, path: Path) -> dict:
        """Opens a stored workflow by the file dialog. Returns it as stored."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        self.page.set_input_files("#comfy-file-input", str(path))
        self.wait(f"app.graph.nodes.length === {len(stored['nodes'])}")
        return stored

    def make(self, nodes: dict[str, tuple[str, int, int]], links: list[tuple[str, str, str, str]]) -> dict[str, str]:
        """Adds nodes, `name: (type, x, y)`, and links, (name, output, name, input). Returns the ids by name."""
        ids = {name: self.page.evaluate(ADD, node) for name, node in nodes.items()}
        for source, output, target, slot in links:
            self.connect(ids[source], output, ids[target], slot)
        return ids

    def connect(self, source: str, output: str, target: str, slot: str) -> None:
        """Links an output of a node to an input of another one."""
        self.page.evaluate(CONNECT, [source, output, target, slot])

    def slots(self, node: str) -> tuple[list[str], list[str]]:
        """The names of a node's inputs and outputs."""
        return tuple(self.page.evaluate(SLOTS, node))

    def widgets(self, node: str) -> dict[str, Any]:
        """The values of a node's widgets by name."""
        return self.page.evaluate(WIDGETS, node)

    def set_widget(self, node: str, name: str, value: Any) -> None:
        self.page.evaluate(SET_WIDGET, [node, name, value])

    def nodes_of(self, kind: str) -> list[str]:
        """The ids of the nodes of a type."""
        return self.page.evaluate(NODES_OF, kind)

    def command(self, name: str) -> None:
        self.page.evaluate("(name) => app.extensionManager.command.execute(name)", name)

    def wait(self, condition: str, arg: Any = None, timeout: float = STEP) -> Any:
        """Waits until an expression of JavaScript holds. Returns its value."""
        return self.page.wait_for_function(condition, arg=arg, timeout=timeout).json_value()

    def search(self, words: str) -> list[str]:
        """Types into the box that finds nodes. Returns its entries, best first, and leaves it open."""
        self.command("Workspace.SearchBox.Toggle")
        self.wait("document.activeElement.role === 'combobox'")
        self.page.keyboard.type(words)
        return self.wait(f"(words) => {OPTIONS}[0]?.toLowerCase().includes(words) && {OPTIONS}", words.lower())

    def add(self, words: str) -> str:
        """Adds the best node that a search finds. Returns its id."""
        before = set(self.page.evaluate(IDS))
        self.search(words)
        self.page.keyboard.press("Enter")
        self.wait("document.activeElement.role !== 'combobox'")
        self.page.mouse.click(*EMPTY_PLACE)
        self.wait(f"(count) => {IDS}.length > count", len(before))
        (added,) = set(self.page.evaluate(IDS)) - before
        return added

    def tooltip(self, node: str, name: str, label: str) -> str:
        """The text that hovering over a widget shows."""
        shown = self.page.locator(".node-tooltip:visible, .p-tooltip-text:visible").first
        for _ in range(TRIES):
            self._hover(node, name, label)
            with contextlib.suppress(Exception):  # playwright's own timeout: the node was not drawn yet
                return shown.inner_text(timeout=2 * SECONDS)
            self.page.mouse.move(*EMPTY_PLACE)
        raise AssertionError(f"no tooltip of {name}")

    def _hover(self, node: str, name: str, label: str) -> None:
        if self.rendering == VUE:
            self.page.locator(f"[data-node-id='{node}'] [data-testid=node-widget]", has_text=label).hover()
            return
        x, y = self.page.evaluate(WIDGET_PLACE, [node, name])
        self.page.mouse.move(x - 1, y)
        self.page.mouse.move(x, y)

    def settle(self) -> None:
        """Waits until nodes have the size of what they show."""
        self.page.evaluate(FRAMES)

    def queue(self) -> dict:
        """Presses Run. Returns the server's answer."""
        with self.page.expect_response(lambda one: one.url.endswith("/prompt") and one.request.method == "POST") as got:
            self.page.click("[data-testid=queue-button]")
        return got.value.json()

    def end(self, prompt_id: str) -> str:
        """Waits until a run ends. Returns the event that ended it."""
        return self.wait("(id) => window.ended[id]", prompt_id, RUN)

    def run(self) -> Ended:
        """Presses Run and waits until the run has succeeded."""
        answer = self.queue()
        assert "prompt_id" in answer, answer
        event, history = self.end(answer["prompt_id"]), self._history(answer["prompt_id"])
        assert event == "execution_success", history["status"]
        return Ended(history["prompt"][2], history)

    def _history(self, prompt_id: str) -> dict:
        """The server's history of a run, which it writes shortly after the event that ends the run."""
        for _ in range(TRIES):
            if history := self.server.get(f"/history/{prompt_id}"):
                return history[prompt_id]
            self.settle()
        raise AssertionError(f"the server has no history of {prompt_id}")

    def cancel(self) -> None:
        """Presses the button that cancels the current run."""
        self.page.get_by_label("Cancel current run").click()

    def error_overlay(self) -> str:
        """The text of the overlay about errors."""
        overlay = self.page.locator("[data-testid=error-overlay]")
        overlay.wait_for(timeout=STEP)
        return overlay.inner_text()

    def error_panel(self, part: str = "") -> str:
        """Opens the panel of errors from the overlay. Returns its text once `part` is in it."""
        self.page.click("[data-testid=error-overlay-see-errors]")
        panel = self.page.locator("[data-testid=error-group-execution]", has_text=part)
        panel.wait_for(timeout=STEP)
        return panel.inner_text()

    def pictures(self, run: Ended) -> dict[str, list[np.ndarray]]:
        """The pictures that each output node shows, uint8 [H,W,3]."""
        nodes = [node for node, output in run.outputs.items() if "images" in output]
        opened = {node: [Image.open(io.BytesIO(file)) for file in self.files(run, node)] for node in nodes}
        return {node: [np.asarray(one.convert("RGB")) for one in files] for node, files in opened.items()}

    def files(self, run: Ended, node: str) -> list[bytes]:
        """The files that an output node shows."""
        shown = run.outputs[node]["images"]
        paths = [f"/view?filename={p['filename']}&subfolder={p['subfolder']}&type={p['type']}" for p in shown]
        return [self.server.get_bytes(path) for path in paths]


class Browser:
    """Chromium, started when its first tab is asked for, until `close`."""

    def __init__(self, server: ComfyServer, path: Path):
        self.server, self.path = server, path
        self._tabs = dict[str, Tab]()
        self._close: Callable[[], None] | None = None

    def tab(self, rendering: str) -> Tab:
        """The tab of a rendering, loaded once, and again if the browser has crashed."""
        if self._close is not None and not self._chromium.is_connected():
            self.close()
        if self._close is None:
            self._start()
        if rendering not in self._tabs:
            page = self._chromium.new_page(viewport={"width": 1720, "height": 900})
            tab = Tab(page, self.server, rendering)
            page.on("pageerror", lambda error: tab.faults.append(str(error)))
            tab.load()
            self._tabs[rendering] = tab
        return self._tabs[rendering]

    def close(self) -> None:
        if self._close is not None:
            self._close()
            self._tabs, self._close = {}, None

    def _start(self) -> None:
        from playwright.sync_api import sync_playwright

        playwright = sync_playwright().start()
        self._chromium = playwright.chromium.launch(executable_path=str(self.path), args=FLAGS)
        self._close = lambda: (self._chromium.close(), playwright.stop())


@contextlib.contextmanager
def setting(tab: Tab, name: str, value: Any) -> Iterator[None]:
    """Another value of a setting."""
    old = tab.page.evaluate("(name) => app.extensionManager.setting.get(name)", name)
    change = "([name, value]) => app.extensionManager.setting.set(name, value)"
    tab.page.evaluate(change, [name, value])
    try:
        yield
    finally:
        tab.page.evaluate(change, [name, old])
