"""What a Stable Diffusion checkpoint is, read off its header or its configs."""
