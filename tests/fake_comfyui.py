"""The small part of ComfyUI that the nodes use, with a network of a few thousand weights in the original layout of SD 1.x.

All is made in inference mode, as in the real one. `install` puts its modules where the real ones would be.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, WORDS, CHANNELS = 8, 6, 4


class EPS:
    """x̂ = x − σ·ε, of x = x̂ + σ·ε."""

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x / (sigma**2 + 1) ** 0.5

    def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        return x - sigma * output


class CONST:
    """x̂ = x − σ·u, of x = (1-σ)·x̂ + σ·ε."""

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x

    def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        return x - sigma * output


class Discrete(EPS):
    sigmas = torch.linspace(0.03, 14, 1000)
    sigma_min = 0.03

    def timestep(self, sigma: Tensor) -> Tensor:
        return (sigma.reshape(-1, 1) - self.sigmas).abs().argmin(1)


class Flow(CONST):
    sigmas = torch.linspace(0.001, 1, 1000)
    sigma_min = 0.001

    def timestep(self, sigma: Tensor) -> Tensor:
        return 1000 * sigma


def calculate_sigmas(model_sampling: Any, scheduler: str, steps: int) -> Tensor:
    count = steps + 1 if scheduler == "ddim_uniform" else steps
    places = torch.linspace(999, 0, count).long()
    return torch.cat([model_sampling.sigmas[places], torch.zeros(1)])


def process_conds(
    model: Any, noise: Tensor, conds: dict[str, list[Any]], device: Any
) -> dict[str, list[Any]]:
    return {
        kind: [{**entry, "model_conds": {"c_crossattn": entry["cross_attn"]}} for entry in entries]
        for kind, entries in conds.items()
    }


def sampling_function(
    model: Any, x: Tensor, sigma: Tensor, negative: Any, positive: Any, scale: float, model_options: Any
) -> Tensor:
    assert model.current_patcher is not None, "pre_run comes first"
    cond, uncond = (model.apply_model(x, sigma, **each[0]["model_conds"]) for each in (positive, negative))
    if change := model_options.get("sampler_cfg_function"):
        return x - change(
            {"cond": x - cond, "uncond": x - uncond, "cond_scale": scale, "sigma": sigma, "input": x}
        )
    return uncond + scale * (cond - uncond)


class Attention(nn.Module):
    def __init__(self, context: int):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(n, WIDTH, bias=False) for n in (WIDTH, context, context))
        self.to_out = nn.Sequential(nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return x + self.to_out(nn.functional.scaled_dot_product_attention(q, k, v))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(WIDTH), Attention(WORDS)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.attn2(self.attn1(x, x), context)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj_in, self.proj_out = nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)
        self.transformer_blocks = nn.ModuleList([Block()])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        places = self.proj_in(x).flatten(2).transpose(1, 2)
        places = self.transformer_blocks[0](places, context)
        return x + self.proj_out(places.transpose(1, 2).reshape(x.shape))


class UNet(nn.Module):
    """Names as in the original layout: `input_blocks.1.1.transformer_blocks.0.attn1.to_q`."""

    def __init__(self) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        first, attention = (
            nn.Conv2d(CHANNELS, WIDTH, 3, padding=1),
            nn.ModuleList([nn.Identity(), Transformer()]),
        )
        self.input_blocks = nn.ModuleList([nn.ModuleList([first]), attention])
        self.out = nn.Sequential(nn.Identity(), nn.SiLU(), nn.Conv2d(WIDTH, CHANNELS, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        x = self.input_blocks[0][0](x) + self.time_embed(time[:, None] / 1000)[:, :, None, None]
        return self.out(self.input_blocks[1][1](x, context))


class SD15:
    """Its name tells the family."""


class SD3:
    """That of a flow."""


class BaseModel(nn.Module):
    def __init__(self, flow: bool) -> None:
        super().__init__()
        self.diffusion_model = UNet()
        self.model_config, self.model_sampling = (SD3(), Flow()) if flow else (SD15(), Discrete())
        self.latent_format, self.concat_keys = SimpleNamespace(latent_channels=CHANNELS), ()
        self.current_patcher: Any = None

    def process_latent_out(self, latent: Tensor) -> Tensor:
        return latent / 0.18215

    def apply_model(self, x: Tensor, sigma: Tensor, c_crossattn: Tensor) -> Tensor:
        spread = sigma[:, None, None, None]
        inner, time = (
            self.model_sampling.calculate_input(spread, x),
            self.model_sampling.timestep(sigma).float(),
        )
        output = self.diffusion_model(inner, time, c_crossattn.to(x))
        return self.model_sampling.calculate_denoised(spread, output, x)


class Patcher:
    def __init__(self, model: Any):
        self.model, self.model_options = model, {"transformer_options": {}}
        self.load_device, self.patches = torch.device("cpu"), dict[str, Tensor]()

    def get_model_object(self, name: str) -> Any:
        return getattr(self.model, name)

    def clone(self) -> Patcher:
        other = Patcher(self.model)
        other.model_options = dict(self.model_options)
        return other

    def pre_run(self) -> None:
        self.model.current_patcher = self

    def cleanup(self) -> None:
        self.model.current_patcher = None


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Conv2d(CHANNELS, 3, 1)

    def decode(self, latents: Tensor) -> Tensor:
        return nn.functional.interpolate(self.colours(latents), scale_factor=8.0)


class VAE:
    device, vae_dtype = torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        self.first_stage_model = Decoder()
        self.patcher = Patcher(self.first_stage_model)

    def process_output(self, images: Tensor) -> Tensor:
        return images.add_(1).div_(2).clamp_(0, 1)

    def spacial_compression_decode(self) -> int:
        return 8


class CLIP:
    def __init__(self, flow: bool):
        self.flow = flow

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list[Any]:
        """77 vectors for each 77 letters that were begun; of a flow, one for each letter."""
        count = 2 + len(tokens) if self.flow else 77 * max(1, -(-len(tokens) // 77))
        seed = int.from_bytes(hashlib.sha256(tokens.encode()).digest()[:4], "big")
        values = torch.randn(1, count, WORDS, generator=torch.Generator().manual_seed(seed))
        return [[values, {"pooled_output": None}]]


class ProgressBar:
    def __init__(self, total: int, node_id: str):
        self.total, self.current = total, 0

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        self.current = value


class InterruptProcessingException(BaseException):
    """As in newer versions: no `Exception`."""


HOME = Path(tempfile.gettempdir()) / f"comfyui-{os.getpid()}"


def get_save_image_path(prefix: str, folder: str) -> tuple[str, str, int, str, str]:
    below, _, stem = prefix.rpartition("/")
    place = Path(folder) / below
    place.mkdir(parents=True, exist_ok=True)
    return str(place), stem, 1 + len(list(place.glob(f"{stem}_*"))), below, prefix


def with_lora(
    model: Patcher, clip: None, lora: dict[str, Tensor], strength: float, clip_strength: float
) -> Any:
    other = model.clone()
    other.patches = lora
    return other, None


def install() -> None:
    """Put it where ComfyUI's modules would be."""
    assert "comfy" not in sys.modules
    modules = {
        "comfy": {},
        "comfy.model_management": {
            "load_models_gpu": lambda models, **options: None,
            "processing_interrupted": lambda: False,
            "unload_all_models": lambda: None,
            "InterruptProcessingException": InterruptProcessingException,
            "get_torch_device": lambda: torch.device("cpu"),
        },
        "comfy.model_sampling": {"CONST": CONST, "EPS": EPS},
        "comfy.samplers": {
            "SCHEDULER_NAMES": ["normal", "ddim_uniform"],
            "calculate_sigmas": calculate_sigmas,
            "process_conds": process_conds,
            "sampling_function": sampling_function,
        },
        "comfy.sd": {"load_lora_for_models": with_lora},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "folder_paths": {
            "get_output_directory": lambda: str(HOME / "output"),
            "get_folder_paths": lambda kind: [str(HOME / "models" / kind)],
            "get_save_image_path": get_save_image_path,
            "models_dir": str(HOME / "models"),
        },
    }
    for name, members in modules.items():
        module = ModuleType(name)
        vars(module).update(members)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


@torch.inference_mode()
def objects(family: str = "sd1") -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE, of SD 1.x or of a flow ("sd3")."""
    flow = family == "sd3"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Patcher(BaseModel(flow).requires_grad_(False)), CLIP(flow), VAE()
