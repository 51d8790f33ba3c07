"""Names that files can have on every system that a folder may be carried to."""

from __future__ import annotations

import re

LONGEST = 200
"""Bytes of a name; file systems take 255, and an ending and the mark of a temporary file are added."""
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE)
"""Devices of Windows, whatever ending they are given."""
FORBIDDEN = '<>:"/\\|?*'


def name_problem(name: str) -> str:
    """Why `name` is no plain name of a file; "" where it is one. It is given an ending elsewhere."""
    if not name.strip(". "):
        return "it has no letters"
    forbidden = sorted(set(FORBIDDEN) & set(name))
    if forbidden:
        return f"it has {' '.join(forbidden)}"
    if not name.isprintable():
        return "it has characters that cannot be printed"
    if name[-1] in ". ":
        return "it ends with a dot or a space"
    if RESERVED.fullmatch(name):
        return "Windows has a device of that name"
    length = len(name.encode("utf-8", "surrogatepass"))
    return f"it has {length} bytes, and more than {LONGEST} do not fit" if length > LONGEST else ""
