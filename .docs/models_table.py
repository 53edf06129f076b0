"""The table of models in docs/models.md, from the catalog. `.docs/generate.py` puts it into the page.

Knows: the columns. Refuses to know: the page.
"""

from slmchat.catalog.model_specs import ModelSpec
from slmchat.catalog.registry import load

HEAD = "| name | parameters | quantizations | licence | tags | draft |\n|---|---|---|---|---|---|\n"


def table() -> str:
    """The table in Markdown, one line per model of the built-in catalog, in its order."""
    return HEAD + "".join(_row(spec) for spec in load().models.values())


def _row(spec: ModelSpec) -> str:
    quantizations = ", ".join(variant.quantization for variant in spec.variants)
    license = f"[{spec.license.id}]({spec.license.link})" if spec.license else "not verified"
    cells = (
        f"`{spec.name}`",
        _parameters(spec),
        quantizations,
        license,
        ", ".join(spec.tags),
        f"`{spec.draft}`" if spec.draft else "",
    )
    return "| " + " | ".join(cells) + " |\n"


def _parameters(spec: ModelSpec) -> str:
    """The maker's own word, else the exact number in millions or billions."""
    if spec.parameters_text or not spec.parameters:
        return spec.parameters_text or "not stated"
    millions = spec.parameters / 1e6
    return f"{millions:.0f}M" if millions < 999.5 else f"{millions / 1000:.2f}B"
