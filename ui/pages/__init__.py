"""The pages that are forms: each function makes one, in the column that it is called in."""

from ui.pages.compare import compare
from ui.pages.score import score
from ui.pages.settings import settings
from ui.pages.train import train

PAGES = {"Train": train, "Compare": compare, "Score": score, "Settings": settings}
