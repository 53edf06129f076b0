"""Which model of a repository is pulled where the name leaves it open.

Names order the candidates; the header of a candidate says what it is, and `fit.choice` which of its quantizations suits
this device. So a draft head is not taken for the model that it belongs to, and a model is not lost because its name has
a word in it that draft heads have too.

Knows: how many headers may be read, when one header speaks for the other quantizations, what is said of the rest.
Refuses to know: the network (catalog/hub.py reads headers), what names say (catalog/file_names.py), what fits (fit/).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field

from slmchat.catalog import file_names, model_kind
from slmchat.catalog.gguf_header import Header
from slmchat.catalog.model_kind import FileKind, ModelKind
from slmchat.catalog.records import with_quantization
from slmchat.catalog.sources import Chooser, Offer
from slmchat.errors import ExitCode, SlmError
from slmchat.fit.choice import Option, choose
from slmchat.fit.estimate import guessed_shape, requantized
from slmchat.fit.shape import ModelShape, shape_of
from slmchat.lazy_dataclasses import dataclass
from slmchat.models.device_fit import ForDevice
from slmchat.reporting import Reporter

MOST_HEADERS = 8
"""Headers that are read of one repository: each is 1 to 8 MiB on the network."""

_MOST_TOLD = 4  # files that a refusal describes
_MOST_LISTED = 20  # quantizations that it lists


def chooser(quantization: str | None, device: ForDevice, reporter: Reporter) -> Chooser:
    """The chooser of a pull. `quantization`: the one asked for; None: the one that suits this device."""

    def choose_one(repo: str, offers: Sequence[Offer], header_of: Callable[[Offer], Header | None]) -> Offer:
        return _Choice(repo, quantization, header_of, device, reporter).of(offers)

    return choose_one


@dataclass(slots=True)
class _Choice:
    """One choice. `refused`: why a file is not taken, in the order in which they were looked at."""

    repo: str
    quantization: str | None
    header_of: Callable[[Offer], Header | None]
    device: ForDevice
    reporter: Reporter
    headers: dict[str, Header | None] = field(default_factory=dict)
    refused: dict[str, SlmError] = field(default_factory=dict)

    def of(self, offers: Sequence[Offer]) -> Offer:
        """1) those of the quantization asked for; 2) the first that is a model; 3) of its quantizations the best.

        Raises `SlmError`.
        """
        wanted = list(self._of_quantization(offers))
        if not wanted:
            raise self._no_quantization(offers)
        spare: Offer | None = None  # an adapter or an embedding model: taken where no model answers
        while wanted and len(self.headers) < MOST_HEADERS:
            first = wanted[0]
            header = self._header(first)
            kind = self._kind(first, header)
            if kind is None and first.named.name in self.refused:
                wanted.remove(first)
                continue
            if kind is not None and not kind.can_generate:
                spare = spare or (first if kind.is_installable else None)
                wanted = [offer for offer in wanted if not _is_alike(offer, first, kind)]
                continue
            chosen = self._best([offer for offer in wanted if offer.named.build == first.named.build], header)
            its = self._kind(chosen, self._header(chosen))
            if chosen.named.name not in self.refused and (its is None or its.can_generate):
                return chosen
            wanted.remove(chosen)
        if spare is not None:
            return spare
        raise self._nothing_left(offers)

    def _of_quantization(self, offers: Sequence[Offer]) -> Iterator[Offer]:
        """The offers of the quantization asked for, as their names state it, else as their headers do."""
        if self.quantization is None:
            yield from offers
            return
        stated = [offer.named.quantization for offer in offers if offer.named.quantization]
        meant = file_names.named(self.quantization, stated)
        if meant is not None:
            yield from (offer for offer in offers if offer.named.quantization == meant)
            return
        for offer in [offer for offer in offers if offer.named.quantization is None][:MOST_HEADERS]:
            header = self._header(offer)
            if header and header.quantization and file_names.same_quantization(self.quantization, header.quantization):
                yield offer

    def _header(self, offer: Offer) -> Header | None:
        """The header, once. One that cannot be had is told, and the names alone decide; a damaged file is refused."""
        name = offer.named.name
        if name not in self.headers:
            self.headers[name] = None
            try:
                self.headers[name] = self.header_of(offer)
            except SlmError as error:
                if error.exit_code is ExitCode.DAMAGED:
                    self.refused[name] = error
                else:
                    self.reporter.detail(f"the header of {name} could not be read: {error.message}")
        return self.headers[name]

    def _kind(self, offer: Offer, header: Header | None) -> ModelKind | None:
        """What the file is. None: it is refused, or nobody can say; then the names decide."""
        if header is None:
            return None
        try:
            return model_kind.check_installable([header], offer.named.name)
        except SlmError as error:
            self.refused[offer.named.name] = error
            kind = model_kind.kind_of([header])
            return kind if not kind.is_installable else None

    def _best(self, offers: Sequence[Offer], header: Header | None) -> Offer:
        """Of the quantizations of one model the one that suits this device."""
        first = offers[0]
        by_quantization: dict[str, Offer] = {}
        for offer in offers:
            if offer.size is not None:
                by_quantization.setdefault(offer.named.label, offer)
        if self.quantization is not None or first.size is None or len(by_quantization) < 2:
            return first
        if self.device.throughput is None:
            self.reporter.status(f"choosing a quantization of {self.repo} for this device ...")
            self.device.measure_more()
        known = shape_of([header]) if header is not None and header.is_whole and len(first.named.parts) == 1 else None
        options = [Option(label, _shape(offer, header, known)) for label, offer in by_quantization.items()]
        chosen = choose(options, self.device.load, self.device.available_memory, self.device.throughput)
        label = chosen.option.quantization
        self.reporter.note(f"{with_quantization(f'hf:{self.repo}', label)}: {chosen.reason}.")
        return by_quantization[label]

    def _no_quantization(self, offers: Sequence[Offer]) -> SlmError:
        labels = list(dict.fromkeys(offer.named.label for offer in offers))
        more = f" and {len(labels) - _MOST_LISTED:,} more" if len(labels) > _MOST_LISTED else ""
        named = next((offer.named for offer in offers), None)
        best = f"@{named.quantization}" if named and named.quantization else f"/{named.name}" if named else ""
        return SlmError(
            f"{self.repo} has no {self.quantization}; it has {', '.join(sorted(labels)[:_MOST_LISTED])}{more}.",
            hint=f"slm pull hf:{self.repo}{best}",
            exit_code=ExitCode.NO_MODEL,
        )

    def _nothing_left(self, offers: Sequence[Offer]) -> SlmError:
        """Every file that was looked at is something else: each is named as what it is."""
        told = list(self.refused.values())
        if len(offers) == 1 and told:
            return told[0]
        others = len(offers) - min(len(told), _MOST_TOLD)
        reasons = "; ".join(error.message.rstrip(".") for error in told[:_MOST_TOLD])
        more = f"; and {others:,} more" if others else ""
        return SlmError(
            f"{self.repo} has no model that slm can run: {reasons}{more}.",
            hint=told[0].hint if told else None,
            exit_code=told[0].exit_code if told else ExitCode.DAMAGED,
        )


def _is_alike(offer: Offer, other: Offer, kind: ModelKind) -> bool:
    """Whether what `other` is holds for this one too: it is the same in another quantization."""
    is_about_types = kind.kind in (FileKind.UNKNOWN_TYPES, FileKind.VOCABULARY)
    return offer is other or (offer.named.build == other.named.build and not is_about_types)


def _shape(offer: Offer, header: Header | None, known: ModelShape | None) -> ModelShape:
    """The shape of a variant: that of the header that was read, with this size and quantization; else a guess."""
    size, quantization = offer.size or 0, offer.named.quantization or (header and header.quantization) or "Q4_K_M"
    if known is not None and known.matrices:
        return requantized(known, size, quantization)
    return guessed_shape(
        size=size,
        parameters=None,
        parameters_text=None,
        context_length=header.context_length if header else None,
        quantization=quantization,
        architecture=header.architecture if header else None,
    )
