"""The browser that pages are tried in: the system's Chromium, or the one that Playwright has."""

from __future__ import annotations

import shutil
from typing import Any

import pytest


def chromium(p: Any) -> Any:
    """A headless one of Playwright's `p`; where there is none, the test is skipped, and says so."""
    from playwright.sync_api import Error

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        return p.chromium.launch(executable_path=found, args=["--no-sandbox"])
    except Error as error:
        pytest.skip(f"no browser: {str(error).splitlines()[0]}")
