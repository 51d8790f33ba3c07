"""`rlr bench`: the studies behind docs/evidence.md."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rlr_core.cli.saying import say
from rlr_core.errors import ConfigError

STUDIES = {
    "learn": "learning curves at equal compute, over several seeds",
    "variance": "bias, variance, cost, time and memory of each gradient",
    "terms": "how noisy the half-order term of each sub-chain is",
    "steps": "what one picture's gradient tells at each step of the chain",
    "dcot": "plain prompts against a prompt for each stage, before and after training (the paper's Table 4)",
    "memory": "peak memory as the chain and the sub-chain grow",
    "time": "where the time of an iteration goes",
    "plan": "the planner's predictions against measured memory, at full size with random weights",
}


def add_bench(command: argparse.ArgumentParser, late: Callable[..., Any]) -> None:
    """The arguments of `rlr bench`."""
    studies = command.add_subparsers(title="studies", required=True, metavar="STUDY")
    for name, summary in STUDIES.items():
        study: argparse.ArgumentParser = studies.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + "."
        )
        study.set_defaults(command=late, study=name)
        study.add_argument(
            "--out", type=Path, default=Path("evidence"), help="folder for results (default: %(default)s)"
        )
        study.add_argument("--methods", type=Path, help="TOML file of methods (default: the shipped one)")
        study.add_argument("--only", default="", metavar="A,B,C", help="of its methods, only these")
        study.add_argument(
            "--workers", type=int, default=os.cpu_count() or 1, help="jobs at a time, one core each"
        )
        study.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or mps (default: %(default)s)")
        study.add_argument(
            "--quick", action="store_true", help="a few minutes: to see that it works, not for evidence"
        )
        if name not in ("dcot", "plan"):
            study.add_argument(
                "--bed",
                default="embedded",
                metavar="NAME",
                help="what it is done on: see `rlr bench beds`; or your own checkpoint, prompts, sampling, reward and [lora], "
                "as CONFIG.toml (default: %(default)s)",
            )
        if name == "variance":
            study.add_argument("--batches", type=int, default=64, help="of 4 pictures (default: %(default)s)")
        if name in ("variance", "terms"):
            study.add_argument(
                "--spread",
                type=float,
                default=0.02,
                help="of random numbers added to the LoRA, zero when new; 0 for the one of lora.start (default: %(default)s)",
            )
        if name == "learn":
            study.add_argument(
                "--seconds", type=float, default=0.0, help="train at least as long (default: %(default)s)"
            )
        if name in ("learn", "dcot"):
            study.add_argument("--evaluations", type=int, default=4_000, help="budget (default: %(default)s)")
            study.add_argument(
                "--pictures",
                type=int,
                default=40,
                help="painted at each point of a curve (default: %(default)s)",
            )
            study.add_argument("--seeds", type=int, help="of each curve (default: as the methods file says)")

    _add_bench_beds(studies, late)
    _add_bench_rewards(studies, late)


def _add_bench_beds(studies: Any, late: Callable[..., Any]) -> None:
    summary = "list the checkpoints that studies are done on with what learned best there, or train one from nothing"
    study: argparse.ArgumentParser = studies.add_parser(
        "beds", help=summary, description=summary[0].upper() + summary[1:] + "."
    )
    study.set_defaults(command=late, study="beds", device="cpu")
    study.add_argument("--train", metavar="NAME", help="of a bed; some 20 minutes of one core")
    study.add_argument(
        "--rank",
        metavar="NAME",
        help="tell at which steps predicted pictures rank as finished ones, on a bed or a CONFIG.toml",
    )
    study.add_argument(
        "--best",
        metavar="NAME",
        help="tell how good the pictures are that the reward likes best, on a bed or a CONFIG.toml",
    )
    study.add_argument(
        "--out",
        type=Path,
        help="folder with a folder for each bed (default: the repository's docs/evidence/beds)",
    )


def _bench_beds(options: argparse.Namespace) -> None:
    from rlr_core.bench.beds.overview import best_of, learned, listed, ranked, train_bed

    if options.rank:
        say(ranked(options.rank))
        return
    if options.best:
        say(best_of(options.best))
        return
    if options.train:
        say(f"Trained in {train_bed(options.train, options.out)}.")
        return
    say(f"{listed()}\n{learned(options.out)}")


def _add_bench_rewards(studies: Any, late: Callable[..., Any]) -> None:
    summary = "time and memory of the published rewards at full size, with random weights"
    study: argparse.ArgumentParser = studies.add_parser(
        "rewards", help=summary, description=summary[0].upper() + summary[1:] + "."
    )
    study.set_defaults(command=late, study="rewards")
    study.add_argument("--only", default="", metavar="A,B,C", help="of the rewards, only these")
    study.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: %(default)s)")
    study.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="of the networks (default: %(default)s)",
    )
    study.add_argument(
        "--out",
        type=Path,
        default=Path("evidence"),
        help="folder for up to 4 GB of weights, which are deleted again (default: %(default)s)",
    )


def _bench_rewards(options: argparse.Namespace) -> None:
    from rlr_core.bench.rewards import study_rewards
    from rlr_core.rewards import PUBLISHED

    chosen = _chosen(options.only, PUBLISHED)
    say(study_rewards(chosen, options.out, options.device, options.precision))


def bench(options: argparse.Namespace) -> None:
    """Carry a study out and print its table."""
    from rlr_core.trainer.devices import choose_device

    options.device = str(choose_device(options.device))
    if options.study in ("rewards", "beds"):
        {"rewards": _bench_rewards, "beds": _bench_beds}[options.study](options)
        return
    from rlr_core.bench import study

    if options.study == "plan":
        desk = study.Desk(options.out, 0, options.device)
        say(f"\n{study.study_plan(desk, quick=options.quick)}\nResults are in {options.out}.")
        return
    methods = _methods(options)
    from rlr_core.bench.beds import bed
    from rlr_core.bench.learn import Budget

    ground = bed(getattr(options, "bed", "embedded"))
    desk, quick = study.Desk(options.out, options.workers, options.device, ground), options.quick
    match options.study:
        case "learn":
            budget = Budget(options.evaluations, options.seconds, points=4, pictures=options.pictures)
            budget = Budget(100, 0.0, points=1, pictures=4) if quick else budget
            seeds, timed = (2, 1) if quick else (options.seeds, 6)
            table = study.study_learn(methods, budget, seeds, desk, timed)
        case "dcot":
            from rlr_core.bench.dcot import study_dcot

            budget = Budget(options.evaluations, 0.0, points=1, pictures=options.pictures)
            budget = Budget(24, 0.0, points=1, pictures=2) if quick else budget
            table = study_dcot(methods, budget, 2 if quick else options.seeds, desk)
        case "variance":
            table = study.study_variance(
                methods, 3 if quick else options.batches, options.spread, options.out / "cache", desk
            )
        case "terms":
            from rlr_core.bench.terms import has_terms

            if not options.only:
                methods = {name: method for name, method in methods.items() if has_terms(method)}
            table = study.study_terms(methods, 2 if quick else 48, options.spread, desk)
        case "steps":
            points = [(0.02, 0)] if quick else [(0.02, 0), (0.0, 25)]
            table = study.study_steps(next(iter(methods.values())), 6 if quick else 128, points, desk)
        case "memory":
            steps, lengths = ((5, 10), (1, 2)) if quick else ((10, 20, 50), (1, 2, 4, 8))
            table = study.study_memory(methods, steps, lengths, desk)
        case _:
            table = study.study_breakdown(methods, 1 if quick else 10, desk)
    say(f"\n{table}\nResults and plots are in {options.out}.")


def _methods(options: argparse.Namespace) -> dict[str, Any]:
    """The chosen methods. Raises `ConfigError`."""
    from rlr_core.bench.dcot import METHODS
    from rlr_core.bench.methods import SHIPPED, read_methods

    methods = read_methods(options.methods or (METHODS if options.study == "dcot" else SHIPPED))
    return {name: methods[name] for name in _chosen(options.only, methods)}


def _chosen(only: str, known: Iterable[str]) -> list[str]:
    """The names in `--only`, or all. Raises `ConfigError`."""
    known = list(known)
    chosen = [name.strip() for name in only.split(",") if name.strip()] or known
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ConfigError(f"--only {','.join(unknown)}", f"names among {', '.join(known)}", "correct it")
    return chosen
