"""How far and how long, on the node and in the log of a server."""

from __future__ import annotations

import re

import pytest
from workflows import MODEL, SAMPLER, text_to_image

# So many tokens that a run takes some seconds on any machine.
PICTURES, TOKENS = 16, "2,304"
RATE, TIME = r"[\d,.]+/s", r"(\d+ min( \d+ s)?|[\d.]+ s)"
STEP = re.compile(rf"([\d,]+) of {TOKENS} tokens(, {RATE}, {TIME} left)?")
LAST = re.compile(rf"{TOKENS} tokens in {TIME} \({RATE}\)")


def long_run(seed: int, **changes) -> dict:
    return text_to_image(seed=seed, batch_size=PICTURES, decoder="ar", **changes)


def texts(run, node: str) -> list[str]:
    return [text for of, text in run.texts if of == node]


@pytest.fixture(scope="module")
def run(server):
    done = server.run(long_run(71))
    assert done.succeeded, done.error
    return done


def test_the_node_says_how_far_and_how_long(run):
    assert {node for node, _ in run.texts} <= {MODEL, SAMPLER}
    *steps, last = texts(run, SAMPLER)
    matches = [STEP.fullmatch(text) for text in steps]
    assert all(matches), steps
    done = [int(match[1].replace(",", "")) for match in matches]
    assert done and done == sorted(done) and LAST.fullmatch(last), last
    assert not any("warming up" in text for _, text in run.texts)


def test_the_log_has_the_bar(server, run):
    assert f"100%|{'█' * 20}| {texts(run, SAMPLER)[-1]}" in server.log.splitlines()


def test_a_cancel_ends_the_texts(server):
    run = server.run(long_run(72), cancel_at=8)
    assert run.interrupted_at == SAMPLER
    *steps, last = texts(run, SAMPLER)
    assert re.search(rf"stopped after [\d,]+ of {TOKENS} tokens|rows are drawn and kept", last)
    assert not any(LAST.fullmatch(text) for text in steps)
    assert server.run(text_to_image(seed=73)).succeeded


def test_loading_says_what_it_reads_where_it_takes_time(server):
    run = server.run(text_to_image(seed=74, weights="int8"))
    assert MODEL in run.executed and all(text.startswith("quantising to int8: ") for text in texts(run, MODEL))
    assert texts(run, SAMPLER)[-1].startswith("144 tokens in ")
