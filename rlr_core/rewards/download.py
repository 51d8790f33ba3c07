"""Published weights from the Hugging Face Hub: said beforehand, shown while they come, resumed, and verified."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

from rlr_core.errors import RewardError, visible
from rlr_core.rewards.published_files import WeightsFile, absent, verify
from rlr_core.storage import ADVICE, storing


def download(file: WeightsFile, folder: Path, reward: str) -> Path:
    """Fetch a file into a folder of weights; what a call fetched before it was interrupted is kept for the next one.

    Raises:
        RewardError: there is no network, the Hub does not give the file, or what came is not the published file.
        StorageError: the folder cannot be written, or the disk is full.
    """
    target = folder / file.place
    told = f"Downloading {file.name} ({file.gigabytes}) of '{reward}' to {target.parent} …"
    print(visible(told), file=sys.stderr)
    with storing(target):
        try:
            part, digest = _fetch(file, target)
        except Exception as error:  # the network's errors are of many kinds
            if isinstance(error, RewardError) or (isinstance(error, OSError) and error.errno in ADVICE):
                raise
            raise absent(file, folder, reward, error) from error
        try:
            verify(part, dataclasses.replace(file, digest=file.digest or digest))
        except RewardError:
            part.unlink()
            raise
        return part.replace(target)


def _fetch(file: WeightsFile, target: Path) -> tuple[Path, str]:
    """The whole file beside its target, and the digest that the Hub gives ("" for none)."""
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers
    except ImportError:
        missing = "huggingface_hub is not installed"
        raise RewardError(missing, "it, to download weights", "pip install 'rlr[clip]'") from None
    from tqdm import tqdm

    url = hf_hub_url(file.repository, file.name)
    facts = get_hf_file_metadata(url)
    etag = facts.etag or ""
    part = target.with_name(f"{target.name}.{etag[:12]}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as stream:
        http_get(
            url,
            stream,
            resume_size=stream.tell(),
            headers=build_hf_headers(),
            expected_size=facts.size,
            displayed_filename=file.name,
            tqdm_class=tqdm,
        )
    return part, f"sha256:{etag}" if re.fullmatch("[0-9a-f]{64}", etag) else ""
