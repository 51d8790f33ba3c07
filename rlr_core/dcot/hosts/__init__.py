"""Prompts by stage as hosts take them, so that a LoRA is used as it was trained. Texts alone: no host is imported.

Hosts meet stages at a step, so that prompts which were trained blending into each other change there at once.
"""

from rlr_core.dcot.hosts.a1111 import escaped, prompt_editing
from rlr_core.dcot.hosts.comfyui import SCHEDULERS, encoders, node
from rlr_core.dcot.hosts.diffusers import snippet

__all__ = ["SCHEDULERS", "encoders", "escaped", "node", "prompt_editing", "snippet"]
