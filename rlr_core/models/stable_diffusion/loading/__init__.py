"""From files to the networks of Stable Diffusion."""
