"""The suite for a GPU, on a CPU: every stage at toy sizes, and what it does when stages go wrong."""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu_suite import __main__ as command_line
from benchmarks.gpu_suite import allocator_child, stage_allocators, stage_build, stage_ncu, stage_steps
from benchmarks.gpu_suite.builds import all_builds
from benchmarks.gpu_suite.context import Context, Skipped, emit_sweeps
from benchmarks.gpu_suite.pytest_runs import failure_of, run_pytest
from benchmarks.gpu_suite.report import read_lines
from benchmarks.gpu_suite.runner import LEAST_SECONDS, LOG, RESULTS, Suite, limit_of, write_line
from benchmarks.gpu_suite.stages import STAGES, Stage
from benchmarks.gpu_suite.tables import TABLES, tables
from lumina_core.kernels.select import MODULES

ROOT = Path(__file__).parents[2]
DEFAULT = [stage.name for stage in STAGES if not stage.optional]
HAS_TRITON = importlib.util.find_spec("triton") is not None


def read(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / RESULTS).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dry run of all stages, made by the command that a user gives."""
    out = tmp_path_factory.mktemp("dry") / "out"
    command = [sys.executable, "-m", "benchmarks.gpu_suite", "--dry-run", "--out", str(out), "--seconds", "300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=330, check=False)
    log = (out / LOG).read_text(encoding="utf-8")[-3000:] if (out / LOG).exists() else ""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{log}"
    return out


def test_the_stages_are_those_of_the_plan_in_its_order() -> None:
    assert [
        *("environment", "build", "self_tests", "steps", "profile", "matmul", "attention", "captured_steps"),
        *("allocators", "draw", "movqgan"),
    ] == DEFAULT
    assert sum(stage.seconds for stage in STAGES if not stage.optional) <= command_line.SECONDS
    assert set(TABLES) == {stage.name for stage in STAGES}


@pytest.mark.slow
def test_a_dry_run_runs_every_stage(dry_run: Path) -> None:
    lines = read(dry_run)
    assert [line["stage"] for line in lines] == DEFAULT
    for line in lines:
        without_triton = not HAS_TRITON and line["status"] == "skipped" and "triton" in line["reason"]
        assert line["status"] == "ok" or without_triton, line
        assert line["dry_run"] is True and line["date"] and 0 < line["seconds"] <= line["limit"] + 5
        assert line["device"].startswith("CPU") and line["torch"] and line["python"]
        assert line["figures"] or without_triton


@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
@pytest.mark.slow
def test_a_dry_run_interprets_every_kernel_and_says_how_far_off_it_is(dry_run: Path) -> None:
    lines = {line["stage"]: line["figures"] for line in read(dry_run)}
    tested = [one for one in lines["self_tests"] if "largest_error" in one]
    assert {one["kernel"] for one in tested} == set(MODULES)
    assert all(one["reason"] == "" and 0 <= one["largest_error"] < 0.02 for one in tested)
    for stage, kernel in (("matmul", "int4_matmul"), ("matmul", "int8_matmul"), ("attention", "window_attention")):
        swept = [one for one in lines[stage] if one.get("kernel") == kernel]
        assert swept[0]["in_use"] and all(one["us"] > 0 and one["off"] < 0.02 and one["share"] > 0 for one in swept)


@pytest.mark.slow
def test_a_dry_run_says_what_users_run(dry_run: Path) -> None:
    lines = {line["stage"]: line["figures"] for line in read(dry_run)}
    (weights,) = [one for one in lines["steps"] if "weights" in one and "kernel" in one]
    plain, of_tree = [one for one in lines["steps"] if "kv" in one and "attention" in one]
    assert weights["kernel"].startswith("plain (") and plain["attention"].startswith("torch (")
    assert of_tree == plain
    assert {(one["compile"], one["window"], one["tree"]) for one in lines["steps"] if "ms" in one} == {
        *(("auto", 1, 0), ("auto", 8, 0), ("off", 1, 0), ("off", 8, 0), ("auto", 8, 4))
    }
    assert all("assumed" in one["accepted_from"] for one in lines["steps"] if "ms" in one)
    good, failing, probe = lines["allocators"]
    assert probe["works"] is False and "no CUDA device" in probe["reason"]
    assert (good["ended"], good["captured"], good["same"], good["same_again"]) == ("exit code 0", True, True, True)
    assert (failing["ended"], failing["captured"], failing["same"]) == ("exit code 0", False, True)
    assert "made to fail" in failing["not_captured_for"]
    assert lines["draw"][-1]["loop_over_steps"] > 0


@pytest.mark.slow
def test_the_tables_of_a_dry_run_name_device_and_date_and_are_no_figures_for_the_page(
    dry_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = command_line.RESULTS_PAGE.read_text(encoding="utf-8")
    assert command_line.main(["--report", str(dry_run / RESULTS)]) == 2
    assert "lines of a dry run" in capsys.readouterr().err
    assert command_line.RESULTS_PAGE.read_text(encoding="utf-8") == page
    into = tmp_path / "tables.md"
    assert command_line.main(["--report", str(dry_run / RESULTS), "--into", str(into)]) == 0
    text = into.read_text(encoding="utf-8")
    date = read(dry_run)[0]["date"][:10]
    for name in DEFAULT:
        title, _ = TABLES[name]
        if any(line["stage"] == name and line["figures"] for line in read(dry_run)):
            assert f"### {title}\n\nDry run at toy sizes, no figures of a GPU: CPU" in text and date in text
    assert "| movqgan | ok |" in text


def results_of(tmp_path: Path, **figures: list[dict]) -> Path:
    path = tmp_path / RESULTS
    facts = {"device": "NVIDIA H100", "torch": "2.11.0", "triton": "3.6.0", "date": "2026-12-01T10:00:00+00:00"}
    lines = [
        {"stage": stage, "status": "ok", "seconds": 3.0, "dry_run": False, **facts, "figures": found}
        for stage, found in figures.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_report_replaces_what_is_between_the_marks_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(command_line.RESULTS_PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    before, begin, _ = page.read_text(encoding="utf-8").partition("<!-- gpu_suite: tables begin -->")
    rates = [{"rate": "copy", "bytes_per_second": 3.0e12}]
    for _ in range(2):
        assert command_line.main(["--report", str(results_of(tmp_path, environment=rates)), "--into", str(page)]) == 0
        text = page.read_text(encoding="utf-8")
        assert text.startswith(before + begin) and text.count("| copy | 3,000 GB/s") == 1
        assert "NVIDIA H100, 2026-12-01, torch 2.11.0, Triton 3.6.0." in text and "No figures yet" not in text


def test_a_report_chooses_the_fastest_tile_of_those_that_agree(tmp_path: Path) -> None:
    problem = {"kernel": "int4_matmul", "layer": "o_proj", "in": 4096, "out": 4096, "rows": 64, "share": 0.5}
    problem["sums_bytes"] = 0
    tile = {"rows": 64, "outputs": 64, "warps": 4, "stages": 2, "splits": 6}
    figures = [
        {"copy_bytes_per_second": 3e12},
        {**problem, "tile": tile, "in_use": True, "us": 30.0, "off": 0.0},
        {**problem, "tile": {**tile, "warps": 8}, "in_use": False, "us": 20.0, "off": 0.001},
        {**problem, "tile": {**tile, "warps": 2}, "in_use": False, "us": 5.0, "off": 0.9},
        {**problem, "tile": {**tile, "warps": 1}, "in_use": False, "error": "OutOfResources: shared memory"},
        {"kernel": "torch bf16", "layer": "o_proj", "in": 4096, "out": 4096, "rows": 64, "us": 40.0, "share": 0.4},
    ]
    into = tmp_path / "tables.md"
    command_line.main(["--report", str(results_of(tmp_path, matmul=figures)), "--into", str(into)])
    text = into.read_text(encoding="utf-8")
    assert "| 30 | 50.0% | 20 | 50.0% | rows 64, outputs 64, warps 8, stages 2, splits 6 | 40 |" in text
    assert "int4_matmul, best splits: o_proj 6." in text and "| 64 | 30 | 20 | 64 | 64 | 8 | 2 |" in text
    assert "1 settings failed: int4_matmul: OutOfResources: shared memory" in text


def test_a_run_that_came_to_nothing_hides_no_figures(tmp_path: Path) -> None:
    facts = {"device": "NVIDIA H100", "date": "2026-12-01T10:00:00+00:00", "seconds": 1.0}
    rates = [[{"rate": "copy", "bytes_per_second": speed}] for speed in (1e12, 2e12)]
    lines = [
        {"stage": "environment", "status": "ok", **facts, "figures": rates[0]},
        {"stage": "environment", "status": "timed out", "error": "killed", **facts, "figures": rates[1]},
        {"stage": "environment", "status": "skipped", "reason": "no time", **facts, "figures": []},
        {
            "stage": "steps",
            "status": "timed out",
            "error": "killed",
            **facts,
            "figures": [{"weights": "int4", "kernel": "k"}],
        },
        {"stage": "movqgan", "status": "failed", "error": "no room", **facts, "figures": []},
    ]
    text = tables(lines)
    assert "| copy | 1,000 GB/s" in text and "2,000" not in text
    assert text.count("### ") == 1 and text.count("| environment |") == 3
    assert "| steps | timed out | 1 | killed | 2026-12-01T10:00:00 | NVIDIA H100 |" in text
    assert "| copy | 2,000 GB/s" in tables(lines[1:])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot read"),
        ("", "holds no line of a stage"),
        ('\n{"stage": "build"', "holds no line of a stage"),
        ("[1]\n", "line 1 is no result"),
        (
            '{"stage": "steps", "status": "ok", "figures": [{"window": 1, "context": 2, "ms": 3}]}\n',
            "no table is made for",
        ),
    ],
)
def test_a_report_of_what_is_no_result_is_refused(
    content: str | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, into = tmp_path / RESULTS, tmp_path / "tables.md"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert command_line.main(["--report", str(path), "--into", str(into)]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1 and not into.exists()


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("mine\n", encoding="utf-8")
    assert command_line.main(["--report", str(results_of(tmp_path, build=[])), "--into", str(page)]) == 2
    assert "has no lines" in capsys.readouterr().err and page.read_text(encoding="utf-8") == "mine\n"


# Stages that go wrong


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


def prints(*lines: str, then: str = "") -> tuple[str, ...]:
    return python(f"import os\nfor line in {lines!r}: print(line, flush=True)\n{then}")


def run_stages(folder: Path, *stages: Stage, seconds: float = 100.0) -> tuple[bool, list[dict]]:
    good = Suite(folder, seconds, dry_run=True).run(stages)
    return good, read(folder)


def test_the_next_stage_starts_whatever_the_last_one_did(tmp_path: Path) -> None:
    good, lines = run_stages(
        tmp_path,
        Stage("prints", 5, command=prints("hello", "[1]", '{"a": NaN, "b": [1e999]}')),
        Stage("raves", 5, command=prints("[" * 10**4, '{"stage_facts": 5}', then="os.kill(os.getpid(), 40)")),
        Stage("lies", 5, command=prints('{"stage_facts": {"stage": "x", "status": "failed", "device": "d"}}')),
        Stage("fails", 5, command=prints('{"stage_error": "ValueError: no"}', then="raise SystemExit(1)")),
        Stage("crashes", 5, command=prints('{"b": 2}', then="os.abort()")),
        Stage("is_missing", 5, command=("/no/such/program",)),
        Stage("skips", 5, command=prints('{"stage_skipped": "no GPU"}')),
        Stage("works", 5, command=prints('{"c": 3}')),
    )
    assert not good
    told = [(line["stage"], line["status"], line.get("error") or line.get("reason"), line["figures"]) for line in lines]
    assert told == [
        ("prints", "ok", None, [{"a": "nan", "b": ["inf"]}]),
        ("raves", "failed", f"ended by signal 40; see {LOG}", [{"stage_facts": 5}]),
        ("lies", "ok", None, []),
        ("fails", "failed", "ValueError: no", []),
        ("crashes", "failed", f"ended by SIGABRT; see {LOG}", [{"b": 2}]),
        ("is_missing", "failed", "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/program'", []),
        ("skips", "skipped", "no GPU", []),
        ("works", "ok", None, [{"c": 3}]),
    ]
    assert "hello" in (tmp_path / LOG).read_text(encoding="utf-8")


SLEEPS = "import time; print('{\"a\": 1}', flush=True); time.sleep(600)"
# It starts a process in a session of its own, which starts one and ends: an orphan.
HANGS = """
import subprocess, sys
leaves = "import subprocess, sys; subprocess.Popen([sys.executable, SLEEPER, MARK], start_new_session=True)"
subprocess.Popen([sys.executable, "-c", leaves], start_new_session=True).wait()
exec(open(SLEEPER).read())
"""
SUITE = """
import pathlib, sys
from benchmarks.gpu_suite.runner import Suite
from benchmarks.gpu_suite.stages import Stage
stages = [Stage(name, 2, command=(sys.executable, *command)) for name, command in COMMANDS]
Suite(pathlib.Path(OUT), 12, True).run(stages)
"""


def start_suite(folder: Path, **code: str) -> tuple[subprocess.Popen, str]:
    """A suite in a process of its own, with a stage for each text of Python, and a mark that its processes have."""
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    (folder / "sleeper.py").write_text(SLEEPS, encoding="utf-8")
    commands = []
    for name, text in code.items():
        script = folder / f"{name}.py"
        text_here = text.replace("SLEEPER", repr(str(folder / "sleeper.py"))).replace("MARK", repr(mark))
        script.write_text(text_here, encoding="utf-8")
        commands.append((name, (str(script), mark)))
    suite = SUITE.replace("COMMANDS", repr(commands)).replace("OUT", repr(str(folder)))
    return subprocess.Popen([sys.executable, "-c", suite], cwd=ROOT, stderr=subprocess.DEVNULL), mark


def processes_with(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if mark in command:
            found.append(command)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_stage_that_hangs_is_killed_with_all_its_children(tmp_path: Path) -> None:
    suite, mark = start_suite(tmp_path, hangs=HANGS, works="pass")
    wait_for_figure(tmp_path)
    assert len(processes_with(mark)) == 3  # the suite, the stage, the orphan
    assert suite.wait(60) == 0
    hangs, works = read(tmp_path)
    assert (hangs["status"], works["status"]) == ("timed out", "ok") and {"a": 1} in hangs["figures"]
    assert hangs["error"] == "killed after 4 s, with all that it started" and 3.5 < hangs["seconds"] < 10
    wait_for_end(mark)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_a_suite_that_is_ended_leaves_a_line_and_no_process(number: int, tmp_path: Path) -> None:
    suite, mark = start_suite(tmp_path, sleeps=SLEEPS, works="pass")
    wait_for_figure(tmp_path)
    suite.send_signal(number)
    assert suite.wait(30) != 0
    (line,) = read(tmp_path)
    assert (line["status"], line["error"], line["figures"]) == ("failed", "interrupted", [{"a": 1}])
    wait_for_end(mark)


def wait_for_end(mark: str) -> None:
    """A killed process is listed until the kernel has ended it, which takes a moment on a busy machine."""
    deadline = time.monotonic() + 10
    while left := processes_with(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def wait_for_figure(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while not (folder / LOG).exists() or '{"a": 1}' not in (folder / LOG).read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_stage_leaves_behind_does_not_run_beside_the_next(tmp_path: Path) -> None:
    leaves = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    good, (line,) = run_stages(tmp_path, Stage("leaves", 20, command=python(leaves)))
    assert good and line["status"] == "ok" and line["seconds"] < 15


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_costs_no_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (RESULTS, LOG):
        (tmp_path / name).symlink_to("/dev/full")
    assert Suite(tmp_path, 50, True).run([Stage("works", 20, command=python("print('{\"a\": 1}')"))])
    out = capsys.readouterr().out
    assert "cannot write results.jsonl: No space left on device" in out and '"figures": [{"a": 1}]' in out


def test_a_line_that_a_disk_took_half_of_is_printed_and_the_next_begins_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Disk(io.BytesIO):
        room = 20

        def write(self, data: bytes) -> int:
            written = super().write(data[: self.room])
            self.room = 10**6
            return written

    disk = Disk()
    lines = [{"stage": name, "status": "ok", "figures": [{"a": number}]} for number, name in enumerate("ab")]
    for line in lines:
        write_line(line, disk)
    out = capsys.readouterr().out
    assert "only 20 of" in out and json.dumps(lines[0]) in out and json.dumps(lines[1]) not in out
    path = tmp_path / RESULTS
    path.write_bytes(disk.getvalue())
    notes: list[str] = []
    assert read_lines(path, notes) == lines[1:] and notes == [f"{path}, line 1 is no JSON and was left out"]


def test_the_processes_that_we_had_before_are_left_alone(tmp_path: Path) -> None:
    mine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        run_stages(tmp_path, Stage("works", 20, command=python("pass")))
        assert mine.poll() is None
    finally:
        mine.kill()
        mine.wait()


def test_without_time_a_stage_is_skipped_and_says_so(tmp_path: Path) -> None:
    works = python("pass")
    good, lines = run_stages(tmp_path, *(Stage(name, 5, command=works) for name in "ab"), seconds=LEAST_SECONDS - 1)
    assert good and [line["status"] for line in lines] == ["skipped"] * 2
    assert lines[0]["reason"].endswith("s are left of 2")


@pytest.mark.parametrize(
    ("seconds", "left", "after", "limit"),
    [
        (10, 540, 490, 20),  # twice, where those after it keep theirs
        (10, 505, 490, 15),  # what they leave
        (10, 480, 490, 10),  # its own, where they have not enough anyhow
        (110, 60, 0, 60),  # never more than is left
    ],
)
def test_limits(seconds: float, left: float, after: float, limit: float) -> None:
    assert limit_of(seconds, left, after) == limit


# Bad input


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--dry-run"], "--out is missing"),
        (
            ["--out", "{}", "--only", "steps", "dance", "--dry-run"],
            "unknown stage 'dance'; expected some of environment",
        ),
        (["--out", "{}", "--seconds", "0", "--dry-run"], "--seconds is 0; expected more than 0"),
        (["--out", "{}", "--seconds", "nan", "--dry-run"], "--seconds is nan"),
        (["--out", "{}", "--seconds", "soon"], "argument --seconds: invalid float value"),
        (["--out", "{}", "--fast"], "unrecognized arguments: --fast"),
        (["--out", "{}/file/below", "--dry-run"], "cannot write in"),
        (["--out", "{}"], "PyTorch finds no CUDA device; --dry-run runs every stage on a CPU"),
    ],
)
def test_bad_input_is_one_line_and_nothing_runs(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(Suite, "run", lambda *_: pytest.fail("a stage ran"))
    (tmp_path / "file").touch()
    assert (
        command_line.main(
            [argument.format(tmp_path / "file" if "below" in argument else tmp_path) for argument in arguments]
        )
        == 2
    )
    err = capsys.readouterr().err
    assert err.startswith("benchmarks.gpu_suite: ") and expected in err and err.count("\n") == 1
    assert not (tmp_path / RESULTS).exists()


def test_a_page_that_is_no_text_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_bytes(b"\xff\xfe\x00")
    assert command_line.main(["--report", str(results_of(tmp_path, build=[])), "--into", str(page)]) == 2
    assert "cannot write" in capsys.readouterr().err and page.read_bytes() == b"\xff\xfe\x00"


def test_without_pytorch_it_says_so_and_still_reports(tmp_path: Path) -> None:
    results, into, out = results_of(tmp_path, build=[]), tmp_path / "x.md", tmp_path / "out"
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from benchmarks.gpu_suite.__main__ import main\n"
        f"assert main(['--report', {str(results)!r}, '--into', {str(into)!r}]) == 0\n"
        f"sys.exit(main(['--out', {str(out)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("benchmarks.gpu_suite: PyTorch cannot be imported")
    assert done.stderr.count("\n") == 1


def test_stages_run_in_their_order_however_they_are_named() -> None:
    assert [stage.name for stage in command_line.chosen(["ncu", "steps", "build"])] == ["build", "steps", "ncu"]
    assert [stage.name for stage in command_line.chosen(None)] == DEFAULT


@pytest.mark.slow
def test_a_stage_that_has_nothing_to_do_here_is_skipped_with_its_reason(tmp_path: Path) -> None:
    (ncu,) = command_line.chosen(["ncu"])
    good, (line,) = run_stages(tmp_path, ncu)
    assert good and line["status"] == "skipped" and line["reason"].startswith("ncu ")


# Stages, each


def test_every_kernel_is_built_in_the_variants_of_a_run_and_of_the_sweeps() -> None:
    builds = all_builds(dry_run=False)
    assert {build.kernel for build in builds} == set(MODULES)
    assert len({(build.kernel, build.variant) for build in builds}) == len(builds) > 200
    tiles = {build.options["tile"].outputs for build in builds if build.kernel == "int4_matmul"}
    assert tiles >= {32, 64, 128}


@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
def test_a_kernel_that_does_not_build_is_told_with_its_error(monkeypatch, capsys) -> None:
    def broken(*_, **__) -> None:
        raise ValueError("no such instruction\nmore")

    monkeypatch.setattr("lumina_core.kernels.select.load", lambda kernel: broken)
    stage_build.builds[:] = all_builds(dry_run=True)
    assert stage_build._build(0)["error"] == "ValueError: no such instruction"


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
def test_a_compiler_that_ends_its_process_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_build, "_build", os._exit)
    with pytest.raises(BrokenProcessPool):
        stage_build.run(Context(True, time.monotonic() + 60))


def test_a_child_that_is_ended_is_a_figure() -> None:
    code = "import os, sys; print('{\"drawn\": 1}', flush=True); print('free(): invalid', file=sys.stderr); os.abort()"
    process = subprocess.Popen(python(code), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert stage_allocators.outcome_of(process, 10) == {
        "ended": "ended by SIGABRT",
        "error": "free(): invalid",
        "drawn": 1,
    }
    process = subprocess.Popen(python("import time; time.sleep(600)"), stdout=-1, stderr=-1, text=True)
    assert stage_allocators.outcome_of(process, 0.2)["ended"] == "killed after 0 s"


def test_an_allocator_is_asked_for_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, env, **_: asked.append((command[2:], env)))
    stage_allocators.start_child("cudaMallocAsync", "failing", dry_run=False)
    ((command, environment),) = asked
    assert environment["PYTORCH_CUDA_ALLOC_CONF"] == "backend:cudaMallocAsync"
    assert command == [allocator_child.__name__, "failing"]
    asked.clear()
    stage_allocators.start_child("cudaMallocAsync", "probe", dry_run=False)
    ((command, environment),) = asked
    assert environment["PYTORCH_CUDA_ALLOC_CONF"] == "backend:cudaMallocAsync"
    assert command == ["0", "cudaMallocAsync", torch.__version__]


NCU_OUTPUT = """==PROF== Connected to process 7
{"kernel": "int4_matmul"}
"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","7","_int4_matmul","gpu__time_duration.sum","nsecond","21,536"
"0","7","_int4_matmul","launch__registers_per_thread","register/thread","96"
"0","7","_int4_matmul","something__else","","1"
"1","7","_int4_matmul","gpu__time_duration.sum","nsecond","21,000.5"
"""


def test_counters_are_read_from_what_ncu_prints() -> None:
    assert list(stage_ncu.read_counters(NCU_OUTPUT.splitlines())) == [
        {"kernel": "_int4_matmul", "duration": 21536.0, "registers": 96.0},
        {"kernel": "_int4_matmul", "duration": 21000.5},
    ]


def test_ncu_is_asked_for_both_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    if os.name != "posix":
        pytest.skip("makes a shell script")
    ncu = tmp_path / "ncu"
    ncu.write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/asked\ncat <<'END'\n{NCU_OUTPUT}END\n", encoding="utf-8")
    ncu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(Skipped, match="on a GPU only"):
        stage_ncu.run(Context(True, time.monotonic() + 50))
    stage_ncu.run(Context(False, time.monotonic() + 50))
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(figures) == 4 and figures[0]["benchmark"].startswith("int4_matmul") and figures[0]["registers"] == 96
    first, second = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert "regex:_int4_matmul" in first and "regex:_attend_chunk" in second and "--clock-control none" in first


@pytest.mark.slow
def test_failures_of_tests_are_figures(tmp_path: Path) -> None:
    path = tmp_path / "test_some.py"
    path.write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2, 'not so'\n"
        "def test_not_here(): pytest.skip('no GPU')\n",
        encoding="utf-8",
    )
    for workers in (0, 2):
        found = run_pytest(str(path), 60, workers)
        assert (found["passed"], found["failed"], found["skipped"], found["exit_code"]) == (1, 1, 1, 1)
        assert found["failures"][0]["test"] == "test_bad" and "not so" in found["failures"][0]["error"]
        assert found["skipped_for"] == ["no GPU"]
    assert failure_of(found, may_skip=False).startswith("1 of ")
    missing = run_pytest(str(tmp_path / "missing.py"), 60)
    assert missing["exit_code"] != 0 and failure_of(missing, may_skip=True)


def test_tests_that_take_too_long_are_cut_short_and_those_that_ran_count(tmp_path: Path) -> None:
    path = tmp_path / "test_some.py"
    text = "import time\ndef test_good(): open('MARK', 'w')\ndef test_slow(): time.sleep(600)\n"
    path.write_text(text.replace("MARK", str(tmp_path / "ran")), encoding="utf-8")
    found = run_pytest(str(path), 4)
    assert (tmp_path / "ran").exists() and (found["passed"], found["exit_code"]) == (1, "killed")
    assert failure_of(found, may_skip=True)


def test_a_file_of_tests_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "test_some.py"
    path.write_text("import no_such_package\n", encoding="utf-8")
    found = run_pytest(str(path), 60)
    assert found["failed"] == 1 and "no_such_package" in found["failures"][0]["error"]


def test_tests_that_all_skip_are_no_success_on_a_gpu() -> None:
    found = {"tests": "some.py", "exit_code": 0, "passed": 0, "failed": 0, "skipped": 3, "skipped_for": ["no Triton"]}
    assert failure_of(found, may_skip=True) == "" and failure_of({**found, "passed": 1}, may_skip=False) == ""
    assert failure_of(found, may_skip=False) == "no test of some.py ran: no Triton"


def test_a_problem_without_a_setting_that_runs_does_not_end_the_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    failed = [{"kernel": "int4_matmul", "error": "no room"}] * 2
    with pytest.raises(RuntimeError, match="of 1 problems no setting ran, of the first int4_matmul: no room"):
        emit_sweeps([failed, [failed[0], {"kernel": "int8_matmul", "us": 1.0}]])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()][-1]["us"] == 1.0


def test_steps_that_ran_the_slow_way_are_no_success() -> None:
    cache = SimpleNamespace(kernels=SimpleNamespace(attention="triton (passed)", blocks=object()))
    transformer, timer = SimpleNamespace(matmul_kernel="triton (passed)"), SimpleNamespace(cache=cache)
    stage_steps.check_fast(transformer, timer, uncaptured=0)
    with pytest.raises(RuntimeError, match="the slow way: 3 settings not captured"):
        stage_steps.check_fast(transformer, timer, uncaptured=3)
    transformer.matmul_kernel, cache.kernels.blocks = "plain (no memory)", None
    with pytest.raises(RuntimeError, match=r"plain \(no memory\); blocks not fused"):
        stage_steps.check_fast(transformer, timer, uncaptured=0)


def test_a_capture_that_should_work_and_does_not_fails_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(allocator: str, kind: str, dry_run: bool) -> subprocess.Popen[str]:
        code = "import os; os.abort()" if kind == "good" else "pass"
        return subprocess.Popen(python(code), stdout=-1, stderr=-1, text=True)

    monkeypatch.setattr(stage_allocators, "start_child", start)
    with pytest.raises(RuntimeError, match="native allocator that should work did not"):
        stage_allocators.run(Context(True, time.monotonic() + 20))


def test_a_probe_that_should_work_and_does_not_fails_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    good = '{"captured": true, "same": true, "same_again": true}'
    says = {"good": good, "failing": "{}", "probe": '{"works": false, "reason": "no replay"}'}

    def start(allocator: str, kind: str, dry_run: bool) -> subprocess.Popen[str]:
        return subprocess.Popen(python(f"print({says[kind]!r})"), stdout=-1, stderr=-1, text=True)

    monkeypatch.setattr(stage_allocators, "start_child", start)
    with pytest.raises(RuntimeError, match="native allocator that should work did not"):
        stage_allocators.run(Context(False, time.monotonic() + 20))
    says["probe"] = '{"works": true}'
    stage_allocators.run(Context(False, time.monotonic() + 20))


@pytest.mark.slow
def test_the_suite_needs_no_package_that_only_the_tests_or_the_command_line_need() -> None:
    stages = [f"benchmarks.gpu_suite.stage_{stage.name}" for stage in STAGES]
    modules = [*stages, "benchmarks.gpu_suite.allocator_child", "benchmarks.kernels.__main__", "tests.kernel_cases"]
    code = (
        "import importlib, sys\n"
        "for name in ('scipy', 'tqdm', 'mypy', 'playwright', 'websocket', 'triton', 'pytest'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
