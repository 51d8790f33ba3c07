"""The authors' ImageReward at reduced depth: scores and gradients of its own `score` and `score_gard`."""

from __future__ import annotations

import functools
import json
import sys
from types import ModuleType

import torch
from oracle_common import PROMPT, answer, as_tensor, fill, folder, pictures, shapes

sys.modules["ImageReward.ReFL"] = ModuleType("ImageReward.ReFL")  # a trainer, which needs diffusers

from ImageReward.ImageReward import ImageReward  # noqa: E402  # pyright: ignore[reportMissingImports]
from ImageReward.models.BLIP import blip_pretrain  # noqa: E402  # pyright: ignore[reportMissingImports]
from ImageReward.models.BLIP.vit import VisionTransformer  # noqa: E402  # pyright: ignore[reportMissingImports]
from transformers import BertTokenizer  # noqa: E402

MED = {
    "hidden_act": "gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30524,
    "add_cross_attention": True,
}
"""As the package's med_config.json."""
SMALL = {
    **MED,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "vocab_size": 200,
    "max_position_embeddings": 64,
}


def tokenizer():
    made = BertTokenizer(str(folder() / "vocab.txt"))
    made.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    return made


def build(config):
    file = folder() / "med_config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    return ImageReward(med_config=str(file), device="cpu").eval()


def score_tensor(model, image):
    """Its own transform without what is for PIL pictures; cut to [0, 1] as an 8-bit picture is."""
    resize, crop, _, _, normalise = model.preprocess.transforms
    text = model.blip.tokenizer(
        PROMPT, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    pixels = normalise(crop(resize(image).clamp(0, 1)))
    return model.score_gard(text.input_ids, text.attention_mask, pixels).squeeze()


def main() -> None:
    blip_pretrain.init_tokenizer = tokenizer
    torch.linspace = functools.partial(torch.linspace, device="cpu")  # the package reads numbers out of it
    with torch.device("meta"):
        layout = shapes(build(MED))
    blip_pretrain.create_vit = lambda *_: (
        VisionTransformer(img_size=224, patch_size=16, embed_dim=64, depth=2, num_heads=4),
        64,
    )
    model = build(SMALL)
    fill(model.state_dict(keep_vars=True).items())
    torch.save(model.state_dict(), folder() / "ImageReward.pt")
    answers = {}
    for name, picture in pictures().items():
        image = as_tensor(picture)
        score = score_tensor(model, image)
        answers[name] = {
            "pil": model.score(PROMPT, picture),
            "tensor": score.detach(),
            "gradient": torch.autograd.grad(score, image)[0],
            "pixels": model.preprocess(picture)[None],
        }
    answer(layout=layout, pictures=answers)


main()
