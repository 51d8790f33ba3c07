"""Stage prompts from a plain prompt: by rules and a template library, or by a language model on the user's own server."""

from rlr_core.dcot.writer.rules import by_rules, left_out
from rlr_core.dcot.writer.server import Server, ask, staged_answer

__all__ = ["Server", "ask", "by_rules", "left_out", "staged_answer"]
