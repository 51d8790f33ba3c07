"""What is shipped with the project, so that the main job runs anywhere: a world of drawn pictures, a text-to-image checkpoint
trained on it, a reward, and a held-out scorer."""

from pathlib import Path

_HERE = Path(__file__).parent

CHECKPOINT = _HERE / "checkpoint"
"""A Stable Diffusion pipeline folder."""
REWARD = _HERE / "reward"
"""An open_clip model that scores picture against prompt."""
SCORER = _HERE / "scorer"
"""A classifier of another architecture and other data, never trained on."""
DEMO = _HERE / "demo.toml"
"""The config of `rlr demo`."""
