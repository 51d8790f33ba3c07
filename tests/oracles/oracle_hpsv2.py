"""The authors' hpsv2 at reduced size: its own `score` of PIL pictures, and gradients through its own transform."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import torch
from oracle_common import PROMPT, answer, as_tensor, fill, folder, pictures, shapes

turtle = ModuleType("turtle")  # the package imports a name from it by mistake; it needs a window system
turtle.forward = None  # pyright: ignore[reportAttributeAccessIssue]
sys.modules["turtle"] = turtle
found = importlib.util.find_spec("hpsv2")
assert found and found.origin
vocabulary = Path(found.origin).parent / "src" / "open_clip" / "bpe_simple_vocab_16e6.txt.gz"
if not vocabulary.exists():  # the wheel lacks it
    shutil.copy(folder() / vocabulary.name, vocabulary)

from hpsv2 import img_score  # noqa: E402  # pyright: ignore[reportMissingImports]
from hpsv2.src.open_clip import factory  # noqa: E402  # pyright: ignore[reportMissingImports]

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}


def main() -> None:
    with torch.device("meta"):
        layout = shapes(factory.create_model("ViT-H-14", device="meta"))
    factory._MODEL_CONFIGS["ViT-H-14"] = SMALL
    whole = img_score.create_model_and_transforms
    img_score.create_model_and_transforms = lambda name, _, **options: whole(name, None, **options)
    img_score.initialize_model()
    model, transform = (img_score.model_dict[name] for name in ("model", "preprocess_val"))
    fill(model.state_dict(keep_vars=True).items())
    file = folder() / "HPS_v2_compressed.pt"
    torch.save({"state_dict": {name: tensor.half() for name, tensor in model.state_dict().items()}}, file)
    score = functools.partial(img_score.score, prompt=PROMPT, cp=str(file))
    answers = {}
    for name, picture in pictures().items():
        image, tokens = as_tensor(picture), img_score.get_tokenizer("ViT-H-14")([PROMPT])
        pil = score(picture)[0]  # also loads the file
        _, _, resize, normalise = transform.transforms
        features = model(normalise(resize(image[0]))[None], tokens)
        cosine = (features["image_features"] * features["text_features"]).sum()
        answers[name] = {
            "pil": float(pil),
            "tensor": cosine.detach(),
            "gradient": torch.autograd.grad(cosine, image)[0],
            "pixels": transform(picture)[None],
        }
    answer(layout=layout, pictures=answers)


main()
