"""ComfyUI: training on its own MODEL, CLIP and VAE, in its process.

`host` is all that is used of ComfyUI; `model` is a `Model` of the core around its objects; `training` carries a run out on one.
"""
