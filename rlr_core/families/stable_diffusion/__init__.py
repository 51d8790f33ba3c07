"""What Stable Diffusion 1.x, 2.x and XL have in common; each has a folder of its own beside this one."""
