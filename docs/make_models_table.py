"""Write the table of models in docs/models.md from the catalog: `python docs/make_models_table.py`.

tests/test_registry.py fails when the page and the catalog differ.
"""

from pathlib import Path

from slmchat.catalog.registry import ModelSpec, load

PAGE = Path(__file__).parent / "models.md"
BEGIN = "<!-- begin: written by docs/make_models_table.py -->\n"
END = "<!-- end -->\n"
HEAD = "| name | parameters | quantizations | licence | tags | gated |\n|---|---|---|---|---|---|\n"


def table() -> str:
    """The table in Markdown, one line per model of the built-in catalog, in its order."""
    return HEAD + "".join(_row(spec) for spec in load().models.values())


def with_table(page: str) -> str:
    """`page` with the part between the two markers replaced by the table."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + table() + "\n" + END + after


def _row(spec: ModelSpec) -> str:
    quantizations = ", ".join(variant.quantization for variant in spec.variants)
    license = f"[{spec.license.id}]({spec.license.link})" if spec.license else "not verified"
    gated = "yes" if spec.is_gated else "no"
    cells = (f"`{spec.name}`", _parameters(spec), quantizations, license, ", ".join(spec.tags), gated)
    return "| " + " | ".join(cells) + " |\n"


def _parameters(spec: ModelSpec) -> str:
    """The maker's own word, else the exact number in millions or billions."""
    if spec.parameters_text or not spec.parameters:
        return spec.parameters_text or "not stated"
    millions = spec.parameters / 1e6
    return f"{millions:.0f}M" if millions < 999.5 else f"{millions / 1000:.2f}B"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
