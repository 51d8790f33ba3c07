"""Published weights from the Hugging Face Hub: said beforehand, shown while it comes, resumed, and verified."""

from __future__ import annotations

import sys
from pathlib import Path

from rlr_core.errors import RewardError
from rlr_core.rewards.weights import WeightsFile, absent, verify
from rlr_core.storage import ADVICE, storing


def download(file: WeightsFile, folder: Path, reward: str) -> Path:
    """Fetch a file into a folder of weights; what an interrupted call has fetched is kept.

    Raises:
        RewardError: there is no network, the Hub does not give the file, or what came is not the published file.
        StorageError: the folder cannot be written, or the disk is full.
    """
    target = folder / file.place
    print(f"Downloading {file.name} ({file.gigabytes}) of '{reward}' to {target.parent} …", file=sys.stderr)
    with storing(target):
        try:
            _fetch(file, target.parent)
        except Exception as error:  # the network's errors are of many kinds
            if isinstance(error, RewardError) or (isinstance(error, OSError) and error.errno in ADVICE):
                raise
            raise absent(file, folder, reward, error) from error
    try:
        verify(target, file)
    except RewardError:
        target.unlink()
        raise
    return target


def _fetch(file: WeightsFile, folder: Path) -> None:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        missing = "huggingface_hub is not installed"
        raise RewardError(missing, "it, to download weights", "pip install 'rlr[clip]'") from None
    from tqdm import tqdm

    hf_hub_download(file.repository, file.name, local_dir=folder, tqdm_class=tqdm)
