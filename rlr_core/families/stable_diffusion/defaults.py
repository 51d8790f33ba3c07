"""Defaults for checkpoints of Stable Diffusion 1.x, 2.x and XL; the built-in ones are fitted to the embedded checkpoint.

Nothing here was measured at these sizes. The learning rate rests on docs/evidence.md and on a second small checkpoint, on which
5e-4 learned as much as 2e-3, while every method broke the pictures at 5e-3. The rest is what published work has, or arithmetic:
with 30 steps a check of 16 + 4 pictures costs 600 evaluations of the network, an iteration of 8 pictures about 110.
"""

from __future__ import annotations

from rlr_core.families.defaults import Default, Defaults

SHARED: Defaults = {
    "memory.plan": Default("auto", "settings are chosen that fit the card, and told"),
    "sampling.steps": Default(
        30, "hosts paint with 20 to 30; with η = 1 fewer leave noise, and 50 cost in proportion"
    ),
    "sampling.guidance_scale": Default(7.5, "as these checkpoints are mostly painted with"),
    "training.iterations": Default(200, "a quarter of the learning rate takes longer"),
    "training.batch_size": Default(
        8, "single gradients are heavy-tailed; estimator.chunk decides on memory, not this"
    ),
    "training.learning_rate": Default(
        5e-4, "2e-3 is fitted to the embedded checkpoint; at 5e-3 others broke"
    ),
    "training.ema": Default(0.95, "the mean LoRA of some twenty iterations is steadier than the latest"),
    "output.preview_every": Default(25, "a preview with its check costs as much as five iterations"),
    "output.checkpoint_every": Default(25, "as often as previews"),
}
"""Of all three."""
XL: Defaults = {
    **SHARED,
    "sampling.guidance_scale": Default(5.0, "XL is painted with less guidance than 1.x"),
    "training.learning_rate": Default(
        2e-4, "more layers move at each step than in 1.x: several times as many attention blocks"
    ),
}
"""Of XL, whose attention blocks are several times as many."""
