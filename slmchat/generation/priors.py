"""What a model says whatever it is to read (`Priors`), as which of some choices it prefers: computed once, and kept.

The prior of a question depends on nothing that changes from input to input, so the next run needs no more than to look
it up. A file in slm's cache has the numbers of each question under a hash of all that they depend on: the files of the
model, adapters, KV type, the build of llama.cpp, the prompts without input, the choices. No text is in it.

Knows: the file, what makes a prior another one. Refuses to know: how a prior is computed (classify.py).
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from slmchat import kept_json
from slmchat.engine.api import Pool
from slmchat.engine.requests import Prompt
from slmchat.errors import SlmError
from slmchat.generation.classify import ClassificationTask, content_free_prior
from slmchat.models.open import OpenModel
from slmchat.private_files import write_private

# Questions that are kept; the one that was asked first goes first. A prior is a number for each choice.
_MOST = 300

_FORMAT = 1


class Priors:
    """The priors of one model: those of this process, and those in the file unless nothing may be kept."""

    def __init__(self, opened: OpenModel) -> None:
        self._opened = opened
        self._known: dict[str, tuple[float, ...]] = {}

    def of(self, task: ClassificationTask, pool: Pool, empty: Sequence[Prompt]) -> tuple[float, ...] | None:
        """As `content_free_prior`, but not again for another input to the same question."""
        if not task.is_calibrated:
            return None
        empty = tuple(dict.fromkeys(empty))  # a prompt without a place for text is the same for every text
        asked = [[*_prompt_key(prompt), task.choices(prompt).texts, task.choices(prompt).has_end] for prompt in empty]
        return self._kept(asked, len(task.texts), lambda: content_free_prior(task, pool, empty))

    def said(
        self, prompts: Sequence[Prompt], compute: Callable[[], tuple[float, ...] | None]
    ) -> tuple[float, ...] | None:
        """What the model has said to these prompts, a number for each: known, kept, or computed now (None: it was
        interrupted, and nothing is kept)."""
        return self._kept([[*_prompt_key(prompt), "said"] for prompt in prompts], len(prompts), compute)

    def _kept(
        self, asked: object, n_values: int, compute: Callable[[], tuple[float, ...] | None]
    ) -> tuple[float, ...] | None:
        file = self._file
        key = self._key(asked, file)
        if key not in self._known and file is not None:
            kept = _read(file).get(key)
            if kept is not None and len(kept) == n_values:
                self._known[key] = tuple(kept)
        if key not in self._known:
            found = compute()
            if found is None:
                return None
            self._known[key] = found
            if file is not None:
                _keep(file, key, found)
        return self._known[key]

    def _key(self, asked: object, file: Path | None) -> str:
        model = [] if file is None else self._model()
        return hashlib.sha256(json.dumps([_FORMAT, model, asked]).encode()).hexdigest()

    def _model(self) -> list[object]:
        """What a score depends on besides the prompt; threads and the like change its last digits only."""
        from slmchat.engine import native

        opened = self._opened
        stats = [file.stat() for file in opened.model.files]
        stamps = [
            [str(file), stat.st_size, stat.st_mtime_ns] for file, stat in zip(opened.model.files, stats, strict=True)
        ]
        adapters = [[str(adapter.path), adapter.scale, adapter.stamp] for adapter in opened.adapters]
        return [stamps, adapters, opened.session_settings(0).kv_type, native.build()]

    @property
    def _file(self) -> Path | None:
        """None: nothing is kept. An endpoint may have another model under the same name tomorrow."""
        opened = self._opened
        files = opened.model.files
        is_kept = files and all(file.exists() for file in files) and not opened.settings.is_private
        return opened.settings.paths.priors if is_kept else None


def _prompt_key(prompt: Prompt) -> list[object]:
    return [
        [[part.text, part.is_template] for part in prompt.parts],
        [[turn.role, turn.text] for turn in prompt.turns],
    ]


def _read(file: Path) -> dict[str, list[float]]:
    """What is kept; nothing when there is no file or it is damaged."""
    found = kept_json.read(file)
    try:
        return {key: [_finite(value) for value in values] for key, values in found.items()}
    except (ValueError, TypeError, AttributeError, OverflowError):
        return {}


def _keep(file: Path, key: str, values: Sequence[float]) -> None:
    """Two processes at once: the later one's is kept, and the other one's is computed again."""
    kept = {**_read(file), key: list(values)}
    content = dict(list(kept.items())[-_MOST:])
    try:
        write_private(file, json.dumps(content).encode())
    except SlmError:  # read-only or full: it is computed again the next time
        return


def _finite(value: object) -> float:
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError("no log-probability")
    return value
