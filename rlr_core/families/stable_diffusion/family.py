"""What sets the families of Stable Diffusion apart, as far as they differ in data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlr_core.families.defaults import Defaults
from rlr_core.families.stable_diffusion.lora import StableDiffusionLora


@dataclass(frozen=True)
class Original:
    """How the original (LDM) layout calls the tensors of a component.

    Attributes:
        prefix: of their names.
        tensor: pattern of the rest of their names; what it does not match is not the component's own.
        count: how many a whole one has.
        pad: of a text encoder, the number that fills up short texts, if it is not that of the end.
        open_clip: whether a text encoder has open_clip's names, and not those of transformers.
    """

    prefix: str
    tensor: str
    count: int
    pad: int | None = None
    open_clip: bool = False


@dataclass(frozen=True)
class StableDiffusionFamily:
    """Stable Diffusion 1.x, 2.x or XL.

    Attributes:
        pipeline: what diffusers calls it in `model_index.json`.
        sizes: prediction type → the side of its own pictures in pixels; others have that of "epsilon".
        clip_skip: the layer of the text models whose states are the conditioning, counted from the end; 1 is the last.
        layers_cut: last layers that its text model in diffusers' layout lacks, since they are never used.
        configs: a folder in diffusers' layout without weights.
        parts: component → how the original layout calls it.
        lora: what LoRA files know of it.
        defaults: settings of a run on it that nobody sets.
    """

    pipeline: str
    sizes: Mapping[str, int]
    clip_skip: int
    layers_cut: int
    configs: Path
    parts: Mapping[str, Original]
    lora: StableDiffusionLora
    defaults: Defaults

    @property
    def key(self) -> str:
        """Short and unique, as "sdxl"."""
        return self.lora.key

    @property
    def title(self) -> str:
        """For people."""
        return self.lora.title

    @property
    def context(self) -> int:
        """The width of the text conditioning, which tells the families apart."""
        return self.lora.widths["unet"]

    @property
    def is_xl(self) -> bool:
        """Whether it has two text encoders, and its UNet is told the picture's size."""
        return "text_encoder_2" in self.parts

    def own_size(self, prediction: str) -> int:
        """Pixels of a side."""
        return self.sizes.get(prediction, self.sizes["epsilon"])


EMA = "model_ema.diffusion_model"
"""First letters of the names of the UNet's running mean; what follows is without dots."""
UNET = "model.diffusion_model."
UNET_TENSOR = (
    r"(time_embed\.[02]|label_emb\.0\.[02]|out\.[02]|(middle_block|(input|output)_blocks\.\d\d?)\.\d"
    r"(|\.(in_layers\.[02]|emb_layers\.1|out_layers\.[03]|skip_connection|op|conv|norm|proj_in|proj_out"
    r"|transformer_blocks\.\d\.(norm[123]|attn[12]\.to_([qkv]|out\.0)|ff\.net\.(0\.proj|2)))))\.(weight|bias)"
)
VAE = Original(
    prefix="first_stage_model.",
    tensor=r"((post_)?quant_conv|(en|de)coder\.(conv_in|conv_out|norm_out|mid\.attn_1\.(norm|q|k|v|proj_out)"
    r"|(mid\.block_[12]|(down|up)\.\d\.block\.\d)\.(norm1|conv1|norm2|conv2|nin_shortcut)"
    r"|down\.\d\.downsample\.conv|up\.\d\.upsample\.conv))\.(weight|bias)",
    count=248,
)
CLIP_TENSOR = (
    r"(text_model\.)?(embeddings\.(token|position)_embedding\.weight|(final_layer_norm"
    r"|encoder\.layers\.\d+\.(self_attn\.([qkv]|out)_proj|layer_norm[12]|mlp\.fc[12]))\.(weight|bias))"
)
CLIP_L = 196
"""Tensors of CLIP ViT-L's text model."""
OPEN_CLIP_TENSOR = (
    r"positional_embedding|(token_embedding|ln_final|transformer\.resblocks\.\d+\.(attn\.out_proj|ln_[12]"
    r"|mlp\.c_(fc|proj)))\.(weight|bias)|transformer\.resblocks\.\d+\.attn\.in_proj_(weight|bias)"
)
