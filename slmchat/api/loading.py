"""How a Python program gets a model, and how it closes itself to the network.

Knows: what is found, loaded and settled before anything can be asked. Refuses to know: what is asked (api/model.py).
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack

from slmchat import settings as settings_module
from slmchat.api import arguments
from slmchat.api.model import Model
from slmchat.api.options import LoadOptions, refuse_unknown, with_loading
from slmchat.api.parameters import says_parameters
from slmchat.api.shared_model import SharedModel
from slmchat.catalog.records import EMBEDDING_TAG
from slmchat.generation.generator import Generator
from slmchat.models import resolve, sandbox
from slmchat.models.backend import BackendModel, LocalModel
from slmchat.models.open import OpenModel
from slmchat.models.remote_backend import endpoint_in_open_process, refuse_local_options
from slmchat.privacy.seal import SealStatus, status
from slmchat.privacy.writable_paths import check_directory
from slmchat.reporting import LogReporter
from slmchat.settings import Settings


@says_parameters
def load(
    name: str | os.PathLike[str] | None = None,
    *,
    ctx: int | None = None,
    threads: int | None = None,
    gpu_layers: int | Literal["auto"] | None = None,
    seed: int | None = None,
    reads_config: bool = False,
    endpoint: str | None = None,
    **rare: Unpack[LoadOptions],
) -> Model:
    """Load an installed model (`slm pull NAME`) or a GGUF file; None: the only installed model.

    An embedding model makes vectors (`Model.embed`) and nothing else.

    `endpoint`: instead, a model of an OpenAI-compatible server at this URL (docs/remote.md): what is asked goes there,
    and nothing else in this program is closed.

    `ctx`: the context window in tokens; None: what suits this device, at most 8,192. `threads`: exactly so many; None:
    as many as there are free cores. `gpu_layers`: None: as suits the GPU, if there is one. `seed`: for every answer
    that is not given another. `rare`: `kv_type` ("f16", "q8_0", "q4_0"), `mmproj` (the projector of
    a model that sees), `lora` (adapters), `device` (GPUs, or "none"), `force` (although it does not fit).
    `reads_config`: settings that are not given here are those of config.toml and the SLM_* variables, and states of the
    KV cache are kept on the disk as the commands keep them. Without it only SLM_HOME counts, and nothing is written
    (but what was found out about llama.cpp itself, on a machine where that must be tried).
    Raises `SlmError`: USAGE for a value out of its range, NO_MODEL, NO_FIT, DAMAGED.
    """
    refuse_unknown(rare, LoadOptions, "load")
    settings = _settings(reads_config=arguments.flag(reads_config, "reads_config"))
    reporter = LogReporter()
    options = with_loading({"ctx": ctx, "threads": threads, "gpu_layers": gpu_layers, "seed": seed, **rare})
    name = None if name is None else arguments.path(name, "name")
    model: BackendModel
    if endpoint is None:
        installed = resolve.find(name, settings, reporter)
        embeds = EMBEDDING_TAG in installed.tags
        model = LocalModel(installed, embeds=embeds).with_projector(options.mmproj)
    else:
        refuse_local_options(options)
        model = endpoint_in_open_process(arguments.text(endpoint, "endpoint"), settings).find(name, settings, reporter)
    generator = Generator(OpenModel(model, options, settings, reporter))
    if model.embeds:
        return Model(SharedModel(generator), options)
    try:
        n_ctx = None if endpoint is not None else options.ctx or settings.n_ctx
        generator.open(generator.opened.window(n_ctx))
    except BaseException:
        generator.close()
        raise
    return Model(SharedModel(generator), options)


@says_parameters
def seal(*, is_private: bool = False, writable: Sequence[str | os.PathLike[str]] = ()) -> SealStatus:
    """Close this process to the network, for good: its threads and the children that it will have, too.

    Do it before anything is loaded. From then on files can be written only in the directories of `writable`, in slm's
    own (with `is_private` not there, and no core dump is made), and as temporary files in memory; modes, owners and
    times of files cannot be changed. Returns what is in force. Raises `SlmError`: UNSEALED where the kernel of this
    system cannot enforce it, or where something of before still leads out; USAGE for a directory that holds code.
    """
    given = arguments.several(writable, "writable", "directories")
    named = [
        check_directory(Path(arguments.path(directory, f"writable[{number}]")), "writable")
        for number, directory in enumerate(given)
    ]
    is_private = arguments.flag(is_private, "is_private")
    sandbox.seal(replace(_settings(reads_config=False), is_offline=True, is_private=is_private), writable=named)
    return status()


def _settings(*, reads_config: bool) -> Settings:
    if reads_config:
        return settings_module.load(os.environ)
    return Settings(settings_module.paths_of(os.environ), is_private=True)
