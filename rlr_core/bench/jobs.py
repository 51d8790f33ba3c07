"""Jobs side by side, one core each; those whose results are stored are not done again."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from tqdm import tqdm

from rlr_core.bench.store import Store, fingerprint

Job = Callable[[dict[str, Any]], dict[str, Any]]


def complete(
    job: Job, settings: Sequence[dict[str, Any]], store: Store, *, workers: int, what: str
) -> list[dict[str, Any]]:
    """The results of `job` for all `settings`, in their order.

    Args:
        job: a function of a module, called in a process of its own with one thread.
        workers: jobs at a time; 0 does them one by one in this process.
        what: they are, for the progress bar.
    """
    distinct = {fingerprint(mine): mine for mine in settings}
    missing = [mine for mine in distinct.values() if store.get(mine) is None]
    with tqdm(
        total=len(distinct), initial=len(distinct) - len(missing), unit="job", desc=what, file=sys.stderr
    ) as bar:
        for mine, result in _run(job, missing, workers):
            store.put(mine, result)
            bar.update()
    return [store.get(mine) or {} for mine in settings]


def _run(job: Job, settings: Sequence[dict[str, Any]], workers: int) -> Any:
    """(settings, result) as they come."""
    if workers == 0:
        yield from ((mine, job(mine)) for mine in settings)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_quiet_single_thread) as pool:
        futures = {pool.submit(job, mine): mine for mine in settings}
        left = set(futures)
        try:
            for future in as_completed(futures):
                left.discard(future)
                yield futures[future], future.result()
        except Exception:  # what has begun is finished, and kept
            for future in as_completed([future for future in left if not future.cancel()]):
                if future.exception() is None:
                    yield futures[future], future.result()
            raise
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _quiet_single_thread() -> None:
    """Before a worker loads anything: one thread, and a lower priority than whoever is at the machine."""
    import torch

    torch.set_num_threads(1)
    with contextlib.suppress(AttributeError, OSError):
        os.nice(5)
    warnings.filterwarnings("ignore")
