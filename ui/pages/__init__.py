"""The pages that are forms, and know only of the workspace: each function makes one, in the column that it is called in."""

from ui.pages.compare import compare
from ui.pages.score import score
from ui.pages.settings import settings

PAGES = {"Compare": compare, "Score": score, "Settings": settings}
