"""RLR: train a LoRA for Stable Diffusion towards a reward (Recursive Likelihood Ratio, arXiv 2502.00639)."""

__version__ = "0.1.0"
