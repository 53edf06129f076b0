"""Formulas as text: all of one, or nothing of it."""

import pytest
from properties import given
from properties import strategies as st

from slmchat.terminal.latex import MOST_CHARACTERS, to_unicode


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"\frac{a+b}{2}", "(a+b)/2"),
        (r"\frac{1}{2} \times \dfrac{x}{y}", "1/2 × x/y"),
        ("x^2 + y^{10} = z_{ij}", "x² + y¹⁰ = zᵢⱼ"),
        (r"\alpha \leq \beta \neq \infty", "α ≤ β ≠ ∞"),
        (r"\boxed{42}", "[42]"),
        (r"\sqrt{x+1} + \sqrt[3]{8} + \sqrt 2", "√(x+1) + ∛8 + √2"),
        (r"\int_0^\infty e^{-x^2} dx", "∫₀^∞ e^(-x²) dx"),
        (r"\left( \frac{1}{2} \right)", "( 1/2 )"),
        (r"\text{the area} = \pi r^2", "the area = π r²"),
        (r"90^\circ \quad 5\%", "90°  5%"),
        (r"f'(x) \in \mathbb{R}^n", "f′(x) ∈ ℝⁿ"),
        (r"\sum_{i=1}^{n} \{ a_i \}", "∑ᵢ₌₁ⁿ { aᵢ }"),
        (r"\vec{v} \cdot \hat{n}", "v\u20d7 · n\u0302"),
    ],
)
def test_a_formula_is_text(source: str, text: str) -> None:
    assert to_unicode(source) == text


@pytest.mark.parametrize(
    "source",
    [
        r"\begin{matrix} a & b \end{matrix}",
        r"x + \unknown{y}",
        r"\frac{a}",
        "{x",
        "x}",
        r"\overline{AB}",
        r"\mathbb{x}",
        "",
        "x" * (MOST_CHARACTERS + 1),
        "{" * 50 + "}" * 50,
    ],
)
def test_what_has_no_form_in_a_line_stays_as_it_was_written(source: str) -> None:
    assert to_unicode(source) is None


@given(st.text("\\{}^_&frac alphsqt[]12'$\n", max_size=60))
def test_no_text_breaks_it(source: str) -> None:
    made = to_unicode(source)
    assert made is None or "\\" not in made or "\\" in source
