"""Signals end a command with one line and its exit code, and leave nothing half done."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lumina_core.cli import main as cli
from lumina_core.cli.packages import PACKAGES
from lumina_core.cli.signals import Cancelled, Signals
from lumina_core.errors import OutOfMemory
from lumina_core.pipeline import Lumina
from tests.signals import SIGNALS, Trials, plan

from .cli_runs import CommandLine

ROOT = Path(__file__).parents[2]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX systems")
QUICK_TRIALS, SLOW_TRIALS = 4, 40
# Of a command with one thread on a free processor; a loaded one is slower, and the moments fall earlier.
SECONDS = {"generate": 4.0, "convert": 3.0, "encode": 2.5, "decode": 2.5}


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    return Trials(tmp_path_factory.mktemp("signals"))


@POSIX
@pytest.mark.parametrize(("command", "name", "at"), plan(QUICK_TRIALS, SECONDS, seed=1))
def test_a_signal_at_any_moment(trials: Trials, command: str, name: str, at: float) -> None:
    number = int(getattr(signal, name))
    ending = trials.run(command, number, at)
    assert not ending.fault(number, trials.outputs(command)), ending


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize(("command", "name", "at"), plan(SLOW_TRIALS, SECONDS, seed=2))
def test_a_signal_at_any_other_moment(trials: Trials, command: str, name: str, at: float) -> None:
    test_a_signal_at_any_moment(trials, command, name, at)


def run_program(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


# In this process


@POSIX
@pytest.mark.parametrize("name", SIGNALS[:3])
def test_handlers_are_those_of_before_when_a_command_is_done(lumina: CommandLine, name: str) -> None:
    number = getattr(signal, name)
    earlier = signal.getsignal(number)
    during = []

    def note(*_: object) -> None:
        during.append(signal.getsignal(number))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.COMMANDS["info"], "run", note)
        lumina.run("info").succeeded()
    assert signal.getsignal(number) == earlier != during[0]


@POSIX
def test_ignored_signals_stay_ignored(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(cli.COMMANDS["info"], "run", lambda *_: os.kill(os.getpid(), signal.SIGHUP))
        lumina.run("info").succeeded()
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_the_engine_sets_no_handlers_when_it_is_imported() -> None:
    program = """
        import signal
        def handlers(): return [signal.getsignal(number) for number in signal.valid_signals()]
        before = handlers()
        import lumina_core.pipeline, lumina_core.cli.main, lumina_core.__main__
        assert handlers() == before
    """
    assert run_program(program).returncode == 0


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_exception_that_a_callback_swallows_ends_the_run_all_the_same(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class Collected:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            sum(range(10))

    sample = Lumina.sample

    def swallowing(self: object, request: object, on_step: object) -> object:
        Collected()
        return sample(self, request, on_step)

    monkeypatch.setattr(Lumina, "sample", swallowing)
    line = lumina.generate().refusal(128 + number)
    assert "cancelled" in line and "o.png" not in lumina.files()


@POSIX
@pytest.mark.parametrize("place", ["lumina_core.pipeline.load_transformer", "lumina_core.pipeline.Lumina.sample"])
def test_an_error_that_a_library_makes_of_a_signal_is_one_of_a_signal(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The library safetensors drops what PyTorch raises and says that it cannot read a tensor."""

    def convert(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        except KeyboardInterrupt:
            raise OutOfMemory("out of memory while loading") from None

    monkeypatch.setattr(place, convert)
    lumina.refuses_to_generate(expected="cancelled; nothing was written", code=129)


@POSIX
def test_a_second_signal_does_not_disturb_the_first() -> None:
    with Signals() as signals:
        with pytest.raises(Cancelled):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.exit_code == 128 + signal.SIGTERM


@POSIX
def test_a_signal_that_is_held_back_is_not_lost() -> None:
    with Signals() as signals:
        with signals.held():
            os.kill(os.getpid(), signal.SIGINT)
            signals.check()
        with pytest.raises(Cancelled):
            signals.check()


@POSIX
def test_a_signal_while_the_work_ends_tells_what_is_written(
    lumina: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cli.COMMANDS["convert"].run

    def late(*arguments: object) -> None:
        run(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cli.COMMANDS["convert"], "run", late)
    out = lumina.path("c.safetensors")
    done = lumina.run("convert", "--checkpoint", lumina.checkpoint, "--weights", "int8", "--out", out)
    assert (done.code, done.err) == (143, f"lumina_core: cancelled after {out} was written\n")


# Consoles, paths and packages


@pytest.mark.parametrize("name", ["圆🔴ł.safetensors"])
def test_nothing_fails_to_print_on_a_windows_console(lumina: CommandLine, name: str) -> None:
    out = lumina.path(name)
    arguments = ("convert", "--checkpoint", lumina.checkpoint, "--weights", "int8", "--device", "cpu")
    command = [sys.executable, "-m", "lumina_core", *map(str, arguments), "--out"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([*command, str(out)], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"") and out.exists()
    assert done.stdout.startswith(str(out).encode("cp1252", errors="backslashreplace"))
    bad = str(out.with_suffix(".圆"))
    done = subprocess.run([*command, bad], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and b"\\u5706" in done.stderr


def test_streams_are_as_before_when_a_command_is_done(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(cli.COMMANDS["info"], "run", lambda *_: print("圆"))
    assert cli.main(["info"]) == 0 and stream.errors == "strict"
    assert stream.buffer.getvalue() == b"\\u5706\n"  # type: ignore[attr-defined]


@POSIX
@pytest.mark.parametrize("shell", ["| true", "| head -n 1", ">&-"])
def test_a_reader_who_leaves_makes_no_traceback(shell: str) -> None:
    command = f"{sys.executable} -m lumina_core info --checkpoint demo --device cpu {shell}"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("option", ["--checkpoint", "--movqgan", "--condition", "--out", "--tokens-out", "--stats-out"])
@pytest.mark.parametrize("name", ["a\0.png", "a\ud800.png"])
def test_what_no_path_can_be(lumina: CommandLine, option: str, name: str) -> None:
    lumina.refuses_to_generate(option, name, expected="which no path can be")


def test_nesting_without_end_is_one_line(lumina: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def nest(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr(cli.COMMANDS["info"], "run", nest)
    lumina.refuses("info", expected="nested too deeply")


def fake_package(folder: Path, module: str, text: str) -> dict[str, str]:
    """An environment in which a package is another one."""
    (folder / f"{module}.py").write_text(text)
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}


@pytest.mark.parametrize("module", PACKAGES)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("__version__ = '0.0.9+cu117'", "the package {name} is 0.0.9+cu117; expected {name} {version} or later"),
        ("raise ModuleNotFoundError('no', name='{module}')", "is missing; expected {name} {version} or later"),
        (
            "raise OSError('libcudart.so: cannot open')",
            "the package {name} cannot be imported (libcudart.so: cannot open)",
        ),
    ],
)
def test_packages_that_are_missing_old_or_broken_are_named(
    tmp_path: Path, module: str, text: str, expected: str
) -> None:
    name, earliest = PACKAGES[module]
    environment = fake_package(tmp_path, module, text.format(module=module))
    command = [sys.executable, "-m", "lumina_core", "info"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    version = ".".join(map(str, earliest))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert expected.format(name=name, version=version) in done.stderr


def test_the_earliest_versions_are_those_of_the_project() -> None:
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, earliest in PACKAGES.values():
        assert name == "torch" or f'"{name}>={".".join(map(str, earliest))}"' in listed
