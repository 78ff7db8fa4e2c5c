"""Starts a ComfyUI server with this pack. Includes a client for its HTTP and websocket API."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

websocket = pytest.importorskip("websocket", reason="these tests need the package websocket-client")

PACK = Path(__file__).parents[2]
PACK_NAME = "comfyui-lumina-mgpt2"
STARTUP_SECONDS = 180
RUN_SECONDS = 180
FREE_TRIES, FREE_SECONDS = 3, 20
CANCEL_SECONDS = 0.5
PREVIEW_EVENT, TEXT_EVENT = 1, 3

# A custom node that tells these tests what the server does not: a run waits after the progress message that cancels it,
# so that no fast machine ends it first, and a file counts how often the cache was emptied.
TEST_PACK = """
import time
from pathlib import Path

import comfy.utils
import execution

NODE_CLASS_MAPPINGS = {}
BASE = Path(__file__).parents[1]
MESSAGES_LEFT, RESETS = BASE / "messages_left", BASE / "resets"
set_hook, reset = comfy.utils.set_progress_bar_global_hook, execution.PromptExecutor.reset


def set_holding_hook(hook):
    def hold(*args, **named):
        hook(*args, **named)
        # The file may be removed at any moment, so it is never written by its name: that would make it anew.
        try:
            file = MESSAGES_LEFT.open("r+")
        except FileNotFoundError:
            return
        with file:
            left = int(file.read()) - 1
            file.seek(0)
            file.truncate()
            file.write(str(left))
        end = time.monotonic() + 60
        while left == 0 and MESSAGES_LEFT.exists() and time.monotonic() < end:
            time.sleep(0.005)

    set_hook(hold)


def counted_reset(executor):
    reset(executor)
    with RESETS.open("a") as file:
        file.write("x")


comfy.utils.set_progress_bar_global_hook = set_holding_hook
execution.PromptExecutor.reset = counted_reset
"""


def find_comfyui() -> tuple[Path, Path] | str:
    """The ComfyUI folder and its Python, or the reason why one is missing."""
    folder = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
    if not (folder / "main.py").is_file():
        return f"no ComfyUI at {folder}; set COMFYUI_PATH to its folder"
    in_venv = [folder / ".venv/bin/python", folder / "venv/bin/python", folder / ".venv/Scripts/python.exe"]
    named = os.environ.get("COMFYUI_PYTHON")
    candidates = [Path(named)] if named else in_venv
    found = [python for python in candidates if python.is_file()]
    return (folder, found[0]) if found else f"no Python for ComfyUI at {folder}; set COMFYUI_PYTHON to it"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Run:
    """The messages of the server about one queued workflow."""

    prompt_id: str
    executed: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    progress: list[tuple[str, int, int]] = field(default_factory=list)
    previews: list[Image.Image] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    outputs: dict = field(default_factory=dict)
    error: dict | None = None
    interrupted_at: str | None = None

    @property
    def interrupted(self) -> bool:
        return self.interrupted_at is not None

    @property
    def succeeded(self) -> bool:
        return self.error is None and not self.interrupted


class ComfyServer:
    """ComfyUI on the CPU with a separate base folder for models, input, output and settings."""

    def __init__(self, comfyui: Path, python: Path, base: Path):
        self.comfyui, self.python, self.base = comfyui, python, base
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client_id = uuid.uuid4().hex
        self.log_path = base / "server.log"
        self.elsewhere = base / "elsewhere" / "lumina_mgpt2"

    def __enter__(self) -> ComfyServer:
        self._make_folders()
        command = [str(self.python), str(self.comfyui / "main.py"), "--cpu", "--port", str(self.port)]
        command += ["--base-directory", str(self.base), "--database-url", "sqlite:///:memory:"]
        command += ["--preview-method", "auto", "--disable-api-nodes"]
        command += ["--extra-model-paths-config", str(self._extra_model_paths())]
        self._log = self.log_path.open("wb")
        self._process = subprocess.Popen(command, cwd=self.base, stdout=self._log, stderr=subprocess.STDOUT)
        try:
            self._wait_until_up()
            self._socket = websocket.create_connection(
                f"ws://127.0.0.1:{self.port}/ws?clientId={self.client_id}", timeout=RUN_SECONDS
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        if hasattr(self, "_socket"):
            self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str):
        """The JSON response of a path."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def get_bytes(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read()

    def post(self, path: str, content: dict | None = None) -> dict:
        """The JSON response to a POST, also if the status is an error."""
        body = json.dumps(content or {}).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return json.loads(error.read() or b"{}")

    def free(self, ask: Callable[[], object] | None = None) -> None:
        """Unloads the models and empties the cache; `ask` asks for it as the button of the frontend does.

        ComfyUI forgets to look if it is asked while it collects the garbage of a run, so it is asked again.
        """
        ask = ask or partial(self.post, "/free", {"unload_models": True, "free_memory": True})
        resets = self.base / "resets"
        before = resets.stat().st_size
        for _ in range(FREE_TRIES):
            ask()
            end = time.monotonic() + FREE_SECONDS
            while time.monotonic() < end:
                if resets.stat().st_size > before:
                    return
                time.sleep(0.05)
        raise AssertionError("the server did not free its memory")

    def queue(self, workflow: dict) -> dict:
        """Queues an API workflow. The response has `prompt_id`, or `error` and `node_errors`."""
        return self.post("/prompt", {"prompt": workflow, "client_id": self.client_id})

    def run(self, workflow: dict, *, cancel_at: int | None = None, cancel_in: str | None = None) -> Run:
        """Queues a workflow and waits until it ends.

        Cancels it at its `cancel_at`-th progress message, where it waits for that, or shortly after the node
        `cancel_in` starts.
        """
        if cancel_at is not None:
            self._messages_left.write_text(str(cancel_at))
        try:
            answer = self.queue(workflow)
            assert "prompt_id" in answer, answer
            return self._listen(answer["prompt_id"], cancel_at, cancel_in)
        finally:
            self._messages_left.unlink(missing_ok=True)

    @property
    def _messages_left(self) -> Path:
        """The file that makes a run wait at a progress message."""
        return self.base / "messages_left"

    def _listen(self, prompt_id: str, cancel_at: int | None, cancel_in: str | None) -> Run:
        run = Run(prompt_id)
        while True:
            message = self._socket.recv()
            if isinstance(message, bytes):
                _note_binary(run, message)
            elif self._note(run, json.loads(message)):
                return run
            if cancel_at is not None and len(run.progress) >= cancel_at:
                self.post("/interrupt")
                self._messages_left.unlink()
                cancel_at = None
            if cancel_in is not None and cancel_in in run.executed:
                time.sleep(CANCEL_SECONDS)
                self.post("/interrupt")
                cancel_in = None

    def next_progress(self) -> str:
        """The node that the next progress message is about."""
        while True:
            message = self._socket.recv()
            if isinstance(message, str) and (values := json.loads(message))["type"] == "progress":
                return values["data"]["node"]

    def end(self) -> None:
        """Ends the process by SIGTERM and waits for it."""
        self._process.terminate()
        self._process.wait(20)

    def pictures(self, run: Run, node_id: str) -> list[Image.Image]:
        """The pictures of an output node."""
        shown = self.get(f"/history/{run.prompt_id}")[run.prompt_id]["outputs"][node_id]["images"]
        paths = [f"/view?filename={p['filename']}&subfolder={p['subfolder']}&type={p['type']}" for p in shown]
        return [Image.open(io.BytesIO(self.get_bytes(path))).convert("RGB") for path in paths]

    def _note(self, run: Run, message: dict) -> bool:
        """Records a message in the run; returns whether it was the last one of the run."""
        kind, data = message["type"], message.get("data", {})
        if data.get("prompt_id") not in (None, run.prompt_id):
            return False
        if kind == "executing" and data.get("node"):
            run.executed.append(data["node"])
        elif kind == "execution_cached":
            run.cached.extend(data["nodes"])
        elif kind == "progress":
            run.progress.append((data["node"], data["value"], data["max"]))
        elif kind == "executed":
            run.outputs[data["node"]] = data["output"]
        elif kind == "execution_error":
            run.error = data
        elif kind == "execution_interrupted":
            run.interrupted_at = data["node_id"]
        return kind == "executing" and data.get("node") is None

    def _make_folders(self) -> None:
        for name in ("models/lumina_mgpt2", "models/vae", "custom_nodes", "input", "output", "temp", "user"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        link = self.base / "custom_nodes" / PACK_NAME
        if not link.exists():
            link.symlink_to(PACK, target_is_directory=True)
        (self.base / "custom_nodes" / "test_pack.py").write_text(TEST_PACK)

    def _extra_model_paths(self) -> Path:
        self.elsewhere.mkdir(parents=True, exist_ok=True)
        path = self.base / "extra_model_paths.yaml"
        path.write_text(
            f"tests:\n  base_path: {self.elsewhere.parent}\n  {self.elsewhere.name}: {self.elsewhere.name}\n"
        )
        return path

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended while starting:\n{self.log[-4000:]}")
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return
            time.sleep(0.5)
        raise TimeoutError(f"ComfyUI did not start in {STARTUP_SECONDS} s:\n{self.log[-4000:]}")


def _note_binary(run: Run, message: bytes) -> None:
    """Records a preview or a text in the run: two big-endian integers, then a file, or the node and the text."""
    event, length = struct.unpack(">II", message[:8])
    if event == PREVIEW_EVENT:
        run.previews.append(Image.open(io.BytesIO(message[8:])).convert("RGB"))
    elif event == TEXT_EVENT:
        run.texts.append((message[8 : 8 + length].decode(), message[8 + length :].decode()))
