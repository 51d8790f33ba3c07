"""transformers' CLIP processor and model as PickScore's README uses them, and LAION's script on OpenAI's own CLIP."""

from __future__ import annotations

import json

import torch
from oracle_common import PROMPT, answer, as_tensor, fill, folder, pictures, shapes
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

import clip.model  # isort: skip  # pyright: ignore[reportMissingImports]
from clip.clip import _transform, tokenize  # isort: skip  # pyright: ignore[reportMissingImports]
from clip.simple_tokenizer import SimpleTokenizer  # isort: skip  # pyright: ignore[reportMissingImports]

TOWER = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1, "num_hidden_layers": 2}


def config(activation: str) -> CLIPConfig:
    tower = {**TOWER, "hidden_act": activation}
    return CLIPConfig(
        text_config=tower,
        vision_config={**tower, "image_size": 224, "patch_size": 14},
        projection_dim=768,
        text_config_dict={**tower, "projection_dim": 768},
    )


def processor() -> CLIPProcessor:
    known = SimpleTokenizer()
    (folder() / "vocab.json").write_text(json.dumps(known.encoder), encoding="utf-8")
    merges = ["#version: 0.2", *(" ".join(pair) for pair in known.bpe_ranks)]
    (folder() / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizerFast(str(folder() / "vocab.json"), str(folder() / "merges.txt"))
    return CLIPProcessor(CLIPImageProcessor(), tokenizer)


def cosine(model, processor, pixels):
    texts = processor(text=PROMPT, padding=True, truncation=True, max_length=77, return_tensors="pt")
    text, image = model.get_text_features(**texts), model.get_image_features(pixel_values=pixels)
    return ((text / text.norm(dim=-1, keepdim=True)) * (image / image.norm(dim=-1, keepdim=True))).sum()


def transformers_answers(activation: str, file: str, *, scaled: bool):
    model, process = CLIPModel(config(activation)).eval(), processor()
    fill(model.state_dict(keep_vars=True).items())
    save_file(model.state_dict(), folder() / file, {"format": "pt"})
    scale = model.logit_scale.exp() if scaled else 1.0
    answers = {}
    for name, picture in pictures().items():
        pixels = process(images=picture, return_tensors="pt").pixel_values.requires_grad_()
        score = scale * cosine(model, process, pixels)
        (gradient,) = torch.autograd.grad(score, pixels)
        answers[name] = {"pil": float(score), "pixels": pixels.detach(), "pixel_gradient": gradient}
    return answers


class Head(nn.Module):
    """The layers of the authors' script."""

    def __init__(self) -> None:
        super().__init__()
        first = [nn.Linear(768, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2)]
        last = [nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1)]
        self.layers = nn.Sequential(*first, *last)


def aesthetic_answers():
    tower = clip.model.CLIP(768, 224, 2, 64, 14, 77, 49408, 64, 1, 2).eval()
    head = Head().eval()
    fill(tower.state_dict(keep_vars=True).items())
    fill(head.state_dict(keep_vars=True).items())
    save_file(in_transformers_names(tower.state_dict()), folder() / "openai.safetensors", {"format": "pt"})
    torch.save(head.state_dict(), folder() / "head.pth")
    transform, answers = _transform(224), {}
    resize, crop, _, _, normalise = transform.transforms

    def mark(pixels):
        embedding = tower.encode_image(pixels)
        return head.layers(embedding / embedding.norm(dim=-1, keepdim=True)).squeeze()

    for name, picture in pictures().items():
        image = as_tensor(picture)
        score = mark(normalise(crop(resize(image).clamp(0, 1))))
        answers[name] = {
            "pil": float(mark(transform(picture)[None])),
            "tensor": score.detach(),
            "gradient": torch.autograd.grad(score, image)[0],
            "pixels": transform(picture)[None],
        }
    text = tower.encode_text(tokenize(PROMPT))
    return answers, text.detach()


def in_transformers_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI's names and fused projections → transformers'."""
    names = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "logit_scale": "logit_scale",
    }
    parts = {
        "visual.transformer.resblocks.": "vision_model.encoder.layers.",
        "transformer.resblocks.": "text_model.encoder.layers.",
        "visual.ln_pre.": "vision_model.pre_layrnorm.",
        "visual.ln_post.": "vision_model.post_layernorm.",
        "ln_final.": "text_model.final_layer_norm.",
        ".ln_1.": ".layer_norm1.",
        ".ln_2.": ".layer_norm2.",
        ".c_fc.": ".fc1.",
        ".c_proj.": ".fc2.",
        ".attn.out_proj.": ".self_attn.out_proj.",
    }
    renamed = {}
    for name, tensor in tensors.items():
        if name in ("visual.proj", "text_projection"):
            renamed[f"{'visual' if name[0] == 'v' else 'text'}_projection.weight"] = tensor.T.contiguous()
            continue
        new = names.get(name, name)
        if new == name and name != "logit_scale":
            for theirs, ours in parts.items():
                new = new.replace(theirs, ours)
        if ".attn.in_proj_" in new:
            before, kind = new.split(".attn.in_proj_")
            for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{before}.self_attn.{letter}_proj.{kind}"] = piece.contiguous()
        else:
            renamed[new] = tensor
    return renamed


def main() -> None:
    with torch.device("meta"):
        huge = CLIPModel(
            CLIPConfig(
                text_config={
                    "hidden_size": 1024,
                    "intermediate_size": 4096,
                    "num_attention_heads": 16,
                    "num_hidden_layers": 24,
                },
                vision_config={
                    "hidden_size": 1280,
                    "intermediate_size": 5120,
                    "num_attention_heads": 16,
                    "num_hidden_layers": 32,
                    "patch_size": 14,
                },
                projection_dim=1024,
            )
        )
    marks, text = aesthetic_answers()
    answer(
        layout=shapes(huge),
        pickscore=transformers_answers("gelu", "pickscore.safetensors", scaled=True),
        clipscore=transformers_answers("quick_gelu", "clipscore.safetensors", scaled=False),
        aesthetic=marks,
        openai_text=text,
    )


main()
