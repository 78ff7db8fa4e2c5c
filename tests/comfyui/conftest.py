"""One ComfyUI server for all tests in this folder, and one browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from browser import Browser, Tab
    from comfy_server import ComfyServer

HERE = Path(__file__).parent
BROWSER = pytest.StashKey["Browser"]()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A running server with this pack as its only custom node."""
    from comfy_server import ComfyServer, find_comfyui

    found = find_comfyui()
    if isinstance(found, str):
        pytest.skip(found)
    folder, python = found
    with ComfyServer(folder, python, tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """A Chromium for playwright."""
    pytest.importorskip("playwright.sync_api", reason="the browser tests need the package playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    return Path(path)


@pytest.fixture(scope="session")
def browser(server: ComfyServer, chromium_path: Path, pytestconfig: pytest.Config) -> Iterator[Browser]:
    """The browser, which starts with the first tab."""
    from browser import Browser

    pytestconfig.stash[BROWSER] = started = Browser(server, chromium_path)
    yield started
    started.close()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests in the browser last: its pages take a share of the processor as long as they are open."""
    own = [index for index, item in enumerate(items) if item.path.parent == HERE]
    last = sorted((items[index] for index in own), key=lambda item: "browser" in getattr(item, "fixturenames", ()))
    for index, item in zip(own, last, strict=True):
        items[index] = item


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ends the browser with the last test of this folder: beside its event loop, later tests could start none."""
    started = item.config.stash.get(BROWSER, None)
    if started is not None and (nextitem is None or nextitem.path.parent != item.path.parent):
        started.close()


@pytest.fixture(params=["classic", "nodes 2.0"])
def tab(browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tab]:
    """A blank workflow in each rendering of nodes."""
    yield from _blank(browser.tab(request.param), tmp_path)


@pytest.fixture
def classic(browser: Browser, tmp_path: Path) -> Iterator[Tab]:
    """A blank workflow in the classic rendering."""
    yield from _blank(browser.tab("classic"), tmp_path)


@pytest.fixture
def vue(browser: Browser, tmp_path: Path) -> Iterator[Tab]:
    """A blank workflow in Nodes 2.0."""
    yield from _blank(browser.tab("nodes 2.0"), tmp_path)


def _blank(tab: Tab, pictures: Path) -> Iterator[Tab]:
    """The tab, reset. A screenshot shows what the test leaves; errors of scripts in the page fail it."""
    tab.reset()
    yield tab
    tab.page.screenshot(path=pictures / f"{tab.rendering}.png")
    assert not tab.faults, tab.faults
