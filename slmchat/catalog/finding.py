"""What is installed under a name: a model, or a model with adapters, as the user's own file puts them together.

Knows: that a name of the user's own may stand for a base and its adapters, and what is missing then.
Refuses to know: how anything is fetched, llama.cpp.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from slmchat.catalog import adapter_names, hub_names, registry
from slmchat.catalog.library import Library
from slmchat.catalog.records import EMBEDDING_TAG, Installed
from slmchat.catalog.registry import Adapted, Reference, UserName
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.lazy_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finder:
    """The library and the names of the user's own file, together."""

    library: Library
    names: Mapping[str, UserName]
    user_file: Path

    def find(self, name: str) -> Installed:
        """The installed model of this name, with the sampler settings that the user's own file gives it.

        Raises `SlmError` as `find_any`, and DAMAGED when it is an adapter.
        """
        found = self.find_any(name)
        if found.is_adapter:
            from slmchat.catalog import lora

            raise lora.not_a_model(found.key)
        return found

    def find_any(self, name: str) -> Installed:
        """The installed model or adapter of this name, with the sampler settings of the user's own file.

        The catalog is parsed only when the name is not that of an installed model: 0.05 s that `slm run` has no time
        for. Raises `SlmError`: NO_MODEL when it, its base or one of its adapters is not here, DAMAGED when its adapters
        do not belong to its base.
        """
        reference = registry.resolve_without_catalog(name, self.names)
        if reference is not None and reference.adapted is not None:
            return self._adapted(reference)
        found = self.library.lookup(name) if reference is None else self.library.find(reference)
        if found is None:
            found = self.library.find(registry.load(self.user_file).resolve(name))
        own = self.names.get(found.name)
        return found if own is None else self._with_settings_of(own, found)

    def pulled_embedding_models(self) -> list[Installed]:
        """Those that are installed, by name. Raises `SlmError` (storage)."""
        return [record for record in self.library.all() if EMBEDDING_TAG in record.tags]

    def embedding_models(self) -> list[Installed]:
        """Those that are installed, by name, and behind them the files that `slm add` has named, in the order of the
        user's own file. A file that is gone, or is not what it was, is left out. Raises `SlmError` (storage)."""
        found = self.pulled_embedding_models()
        for own in self.names.values():
            if own.target is not None and own.target.path is not None and (named := self._in_place(own.target)):
                found.append(named)
        return found

    def _in_place(self, target: Reference) -> Installed | None:
        """The embedding model in a file that has a name; None for anything else, or nothing."""
        try:
            record = self.library.find(target)
        except SlmError:
            return None
        return record if EMBEDDING_TAG in record.tags else None

    def adapter_file(self, target: str) -> Path:
        """The file of an adapter, given as a path or as the `hf:` name of one that was pulled.

        Raises `SlmError`: NO_MODEL when it is not here, USAGE for a malformed name.
        """
        if not hub_names.is_hub_name(target):
            return registry.absolute(target)
        reference = registry.resolve_without_catalog(target, {})
        assert reference is not None
        return self.library.find(reference).path

    def needing(self, record: Installed) -> list[str]:
        """The user's names that cannot be used while nothing is installed for what `record` was installed for."""
        return [
            own.name
            for own in self.names.values()
            if own.target is not None and own.target.adapted is not None and self._needs(own.target, record)
        ]

    def _needs(self, reference: Reference, record: Installed) -> bool:
        assert reference.adapted is not None
        for text in (reference.adapted.base, *(target for target, _scale in reference.adapted.lora)):
            meant = registry.resolve_without_catalog(text, self.names)
            name, at, quantization = text.partition("@")
            is_meant = (
                (meant.name, meant.quantization or record.quantization) == (record.name, record.quantization)
                if meant is not None
                else name == record.name and (not at or quantization.upper() == record.quantization)
            )
            if is_meant and not self.library.matching(meant or text):
                return True
        return False

    def _with_settings_of(self, own: UserName, found: Installed) -> Installed:
        """What the user's own file says about a name goes before what the model's record has."""
        if own.sampler or own.sampler_thinking:
            found = replace(
                found,
                sampler=own.sampler or found.sampler,
                sampler_thinking=own.sampler_thinking,
                sampler_source=str(self.user_file),
            )
        return replace(found, draft=own.draft) if own.draft else found

    def check_base(self, name: str, adapted: Adapted) -> None:
        """Raises `SlmError` (USAGE) where the base below the adapters of `name` has adapters itself."""
        below = registry.resolve_without_catalog(adapted.base, self.names)
        if below is not None and below.adapted is not None:
            raise usage_error(
                f"the base of {name} is {adapted.base}, which has adapters itself.",
                f"in {self.user_file}: name the base {below.adapted.base}, and all adapters in one list",
            )

    def _adapted(self, reference: Reference) -> Installed:
        adapted = reference.adapted
        assert adapted is not None
        self.check_base(reference.name, adapted)
        try:
            below = self.find(adapted.base)
            files = [(self.adapter_file(target), scale) for target, scale in adapted.lora]
        except SlmError as error:
            if error.exit_code is not ExitCode.NO_MODEL:
                raise
            raise SlmError(
                f"{reference.name} is not complete: {error.message}",
                hint=f"slm pull {reference.name}",
                exit_code=error.exit_code,
            ) from error
        from slmchat.catalog import lora  # with the parser of headers, which most starts need not wait for

        base = lora.Base([file.path for file in below.files])
        labels = [adapter_names.labelled(path.name, scale) for path, scale in files]
        return replace(
            self._with_settings_of(self.names[reference.name], below),
            name=reference.name,
            title=f"{reference.name}: {below.key} with {', '.join(labels)}",
            is_one_file=True,
            base=below.key,
            adapters=tuple(base.adapter(path, scale) for path, scale in files),
        )
