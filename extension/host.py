"""All that is used of A1111, Forge and their relatives."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

SECTION = ("rlr", "RLR")
BRING, LEND = "rlr_bring_loras", "rlr_lend_card"


def register(tabs: Callable[[], Any], started: Callable[[Any, Any], None]) -> None:
    """Tell the host what it is to call.

    To learn whose callback it is, it goes through the whole call stack, and for each frame without a module of its own
    (those of importlib, a script's) through all modules: half a second for three callbacks. A thread's stack has none.
    """
    with ThreadPoolExecutor(1) as thread:
        thread.submit(_register, tabs, started).result()


def _register(tabs: Callable[[], Any], started: Callable[[Any, Any], None]) -> None:
    from modules import script_callbacks  # pyright: ignore[reportMissingImports]

    script_callbacks.on_ui_tabs(tabs)
    script_callbacks.on_ui_settings(add_settings)
    script_callbacks.on_app_started(started)


def options() -> Any:
    """The command line."""
    from modules import shared  # pyright: ignore[reportMissingImports]

    return shared.cmd_opts


def home() -> Path:
    """Where this host's runs are: two hosts on one machine have two."""
    from modules import paths  # pyright: ignore[reportMissingImports]

    return Path(paths.data_path).resolve() / "rlr"


def folders() -> dict[str, list[str]]:
    """The host's folders, as `rlr-ui.toml` names them."""
    from modules import paths  # pyright: ignore[reportMissingImports]

    models = Path(paths.models_path).resolve()
    return {
        "checkpoints": _folders("ckpt_dir", models / "Stable-diffusion"),
        "loras": _folders("lora_dir", models / "Lora"),
    }


def _folders(option: str, usual: Path) -> list[str]:
    """The folder that the command line names, or the usual one; then more of them, which Forge Neo takes (`--lora-dirs`)."""
    first = getattr(options(), option, None) or usual
    return list(dict.fromkeys(map(str, [first, *(getattr(options(), f"{option}s", None) or [])])))


def chosen() -> dict[str, str]:
    """Files of the checkpoint and of the VAE that are chosen in the host; "" where there is none."""
    from modules import sd_models, shared  # pyright: ignore[reportMissingImports]

    found = sd_models.get_closet_checkpoint_match(shared.opts.data.get("sd_model_checkpoint") or "")
    found = found or next(iter(sd_models.checkpoints_list.values()), None)  # which hosts then take, too
    return {"checkpoint": str(found.filename) if found else "", "vae": _vae(shared.opts.data)}


def _vae(settings: dict[str, Any]) -> str:
    """A1111 has a name for it; Forge and Neo a list of files, text encoders among them."""
    from modules import paths  # pyright: ignore[reportMissingImports]

    files = settings.get("forge_additional_modules")
    if files is None:
        from modules import sd_vae  # pyright: ignore[reportMissingImports]

        return str(sd_vae.vae_dict.get(settings.get("sd_vae") or "") or "")
    encoders = _folders("text_encoder_dir", Path(paths.models_path).resolve() / "text_encoder")
    vaes = (file for file in files if not any(Path(file).is_relative_to(folder) for folder in encoders))
    return str(next(vaes, ""))


def add_settings() -> None:
    """For `on_ui_settings`: Settings → RLR."""
    from modules import shared  # pyright: ignore[reportMissingImports]

    for key, label in (
        (BRING, "Put the LoRA of a run that has ended into the webui's LoRA folder"),
        (LEND, "Take the webui's model off the card while a run is training"),
    ):
        shared.opts.add_option(key, shared.OptionInfo(True, label, section=SECTION))


def setting(key: str) -> bool:
    """One of the settings above."""
    from modules import shared  # pyright: ignore[reportMissingImports]

    return bool(shared.opts.data.get(key, True))


def queue() -> Any:
    """The lock that is held while a picture is made."""
    from modules import call_queue  # pyright: ignore[reportMissingImports]

    return call_queue.queue_lock


def loaded() -> tuple[int, str] | None:
    """Tells one model of the host from another, and from the same one with the weights of another file; None for none."""
    from modules import sd_models  # pyright: ignore[reportMissingImports]

    model = sd_models.model_data.sd_model
    of = getattr(model, "sd_checkpoint_info", None)
    return None if model is None else (id(model), str(getattr(of, "filename", "")))


def lend_card() -> tuple[int, str] | None:
    """Take the model off the card, once no picture is being made; returns what is loaded then, None with nothing to take.

    With none, A1111 would load one to unload it. Its first one comes in a thread, which has the lock and not the queue.
    """
    from modules import sd_models  # pyright: ignore[reportMissingImports]

    if loaded() is not None:
        with queue(), getattr(sd_models.model_data, "lock", None) or nullcontext():
            if loaded() is not None:  # loading it may have failed at last
                sd_models.unload_model_weights()
    return loaded()


def take_card_back() -> None:
    """Put the model on the card again: A1111 does not do so by itself. Whoever calls holds the queue, or is its turn."""
    from modules import sd_models  # pyright: ignore[reportMissingImports]

    model, send = sd_models.model_data.sd_model, getattr(sd_models, "send_model_to_device", None)
    if model is not None and send is not None:
        send(model)


def refresh_loras() -> None:
    """Let the host see new files in its LoRA folder."""
    from modules import ui_extra_networks  # pyright: ignore[reportMissingImports]

    for each in ui_extra_networks.extra_pages:
        if each.title == "Lora":
            each.refresh()
