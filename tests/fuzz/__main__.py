"""python -m tests.fuzz --inputs 12000: mutated inputs through the command line, and a table of how they ended."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from tqdm import tqdm

from .cases import CASES, GROUPS
from .kinds import KINDS, all_inputs
from .pool import Named, Pool
from .run import VERDICTS, Outcome


def main() -> int:
    options = _options()
    inputs = _inputs(options)
    start = time.perf_counter()
    with Pool(options.workers) as pool, tqdm(total=len(inputs), mininterval=2) as bar:

        def tell(named: Named, outcome: Outcome) -> None:
            bar.update()
            if not outcome.is_good:
                bar.write(describe(named, outcome))

        ended = pool.run(inputs, tell)
    outcomes = [outcome for _, outcome in ended]
    print(table(outcomes))
    print(f"{len(outcomes):,} inputs in {time.perf_counter() - start:.0f} s; the slowest took {slowest(outcomes)}")
    if options.json:
        options.json.write_text(json.dumps([outcome.to_dict() for outcome in outcomes]))
    return 0 if all(outcome.is_good for outcome in outcomes) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=600, help="how many mutated inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=tuple(KINDS), help="one kind only")
    parser.add_argument("--only", type=int, help="one input of the kind, by its index")
    parser.add_argument(
        "--cases", nargs="?", const="", metavar="WORDS", help="the named cases instead, or those with these words"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write all outcomes")
    return parser.parse_args()


def _inputs(options: argparse.Namespace) -> list[Named]:
    if options.cases is not None:
        return [{"kind": "case", "name": name} for name in CASES if options.cases in name]
    kinds = (options.kind,) if options.kind else tuple(KINDS)
    if options.only is not None:
        return [{"kind": kinds[0], "seed": options.seed, "index": options.only}]
    return all_inputs(options.inputs, options.seed, kinds)


def table(outcomes: list[Outcome]) -> str:
    """Rows of kinds, or of groups of cases, columns of verdicts, as Markdown."""
    groups = {attempt.what: group for group, attempts in GROUPS.items() for attempt in attempts}
    counts_of: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        counts_of[groups.get(outcome.what, outcome.kind)][outcome.verdict] += 1
    rows = list(counts_of.items())
    rows.append(("all", sum((counts for _, counts in rows), Counter())))
    lines = [f"| kind | tried | {' | '.join(VERDICTS)} |", "|---" * (len(VERDICTS) + 2) + "|"]
    for kind, counts in rows:
        cells = (kind, f"{counts.total():,}", *(f"{counts[verdict]:,}" for verdict in VERDICTS))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def slowest(outcomes: list[Outcome]) -> str:
    last = max(outcomes, key=lambda outcome: outcome.seconds)
    most = max(outcome.grown_bytes for outcome in outcomes)
    return f"{last.seconds:.1f} s ({last.kind}: {last.what}); the most memory was {most / 2**20:,.0f} MiB"


def describe(named: Named, outcome: Outcome) -> str:
    repeat = (
        f'--cases "{named["name"]}"'
        if named["kind"] == "case"
        else (f'--kind "{named["kind"]}" --seed {named["seed"]} --only {named["index"]}')
    )
    return (
        f"\n{outcome.verdict.upper()} {outcome.kind}: {outcome.what}\n  {outcome.detail}\n"
        f"  said: {outcome.said.strip()}\n"
        f"  command: {outcome.command!r}\n  repeat: python -m tests.fuzz {repeat}"
    )


if __name__ == "__main__":
    sys.exit(main())
