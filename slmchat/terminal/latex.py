"""Mathematics in LaTeX as Unicode text: `\\frac{a}{b}` is a/b, `x^2` is x². All of a formula, or nothing of it.

Knows: the commands that small models write, what Unicode has for them. Refuses to know: where a formula begins and
ends, how it is laid out. What has two dimensions (matrices, cases) stays as it was written.
"""

import re
from collections.abc import Callable, Mapping

# Longer formulas are not looked at.
MOST_CHARACTERS = 1_000
_MOST_DEPTH = 20

# name:character
_SYMBOLS: Mapping[str, str] = dict(
    re.findall(
        r"(\w+):(\S)",
        """
        alpha:α beta:β gamma:γ delta:δ epsilon:ϵ zeta:ζ eta:η theta:θ iota:ι kappa:κ lambda:λ mu:μ nu:ν xi:ξ pi:π rho:ρ
        sigma:σ tau:τ upsilon:υ phi:ϕ chi:χ psi:ψ omega:ω varepsilon:ε vartheta:ϑ varphi:φ varrho:ϱ varsigma:ς
        Gamma:Γ Delta:Δ Theta:Θ Lambda:Λ Xi:Ξ Pi:Π Sigma:Σ Upsilon:Υ Phi:Φ Psi:Ψ Omega:Ω
        times:× cdot:· div:÷ pm:± mp:∓ ast:∗ star:⋆ circ:∘ bullet:• oplus:⊕ otimes:⊗ le:≤ leq:≤ ge:≥ geq:≥ ne:≠ neq:≠
        approx:≈ equiv:≡ sim:∼ simeq:≃ cong:≅ propto:∝ ll:≪ gg:≫ lt:< gt:> to:→ rightarrow:→ leftarrow:←
        leftrightarrow:↔ Rightarrow:⇒ Leftarrow:⇐ Leftrightarrow:⇔ implies:⟹ iff:⟺ mapsto:↦ uparrow:↑ downarrow:↓
        longrightarrow:⟶ infty:∞ partial:∂ nabla:∇ sum:∑ prod:∏ int:∫ iint:∬ oint:∮ in:∈ notin:∉ ni:∋ subset:⊂
        subseteq:⊆ supset:⊃ supseteq:⊇ cup:∪ cap:∩ setminus:∖ emptyset:∅ varnothing:∅ forall:∀ exists:∃ nexists:∄ neg:¬
        lnot:¬ land:∧ wedge:∧ lor:∨ vee:∨ angle:∠ degree:° ldots:… dots:… cdots:⋯ vdots:⋮ prime:′ mid:| vert:| Vert:‖
        parallel:∥ perp:⊥ therefore:∴ because:∵ hbar:ℏ ell:ℓ Re:ℜ Im:ℑ aleph:ℵ langle:⟨ rangle:⟩ lfloor:⌊ rfloor:⌋
        lceil:⌈ rceil:⌉ checkmark:✓ square:□ Box:□ triangle:△ lbrace:{ rbrace:} colon::
        """,
    )
)
# Names of functions stand as they are.
_NAMES = frozenset(
    re.findall(
        r"\w+",
        "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp lim max min sup inf gcd det dim ker "
        "mod bmod arg deg Pr",
    )
)
_SPACES: Mapping[str, str] = {"quad": "  ", "qquad": "    ", "!": "", "space": " ", **dict.fromkeys(",;: ", " ")}
_AS_TEXT = (
    *("text", "textbf", "textit", "textrm", "mathrm", "mathbf", "mathit", "mathsf"),
    *("operatorname", "mbox", "boldsymbol"),
)
_DROPPED = ("left", "right", "big", "Big", "bigg", "Bigg", "displaystyle", "textstyle", "limits", "nolimits")
_BOARD = dict(zip("RNZQCPHF", "ℝℕℤℚℂℙℍ𝔽", strict=True))
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "overline": "\u0305", "vec": "\u20d7", "tilde": "\u0303", "dot": "\u0307"}
_ROOTS = {"2": "√", "3": "∛", "4": "∜"}
_SUPER = dict(
    zip("0123456789+-=()abcdefghijklmnoprstuvwxyzT′*", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀ′*", strict=True)
)
_SUB = dict(zip("0123456789+-=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))

_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|\s+|[{}^_&]|[^\\\s{}^_&]", re.DOTALL)


class _Unknown(Exception):
    """Something that has no form in a line of text."""


def to_unicode(source: str) -> str | None:
    """The formula without its delimiters as one line of text; None where a part of it cannot be written so."""
    if len(source) > MOST_CHARACTERS:
        return None
    try:
        made = _Reader(_TOKEN.findall(source)).all()
    except _Unknown:
        return None
    return re.sub(r"(?<=\S) {2,}(?=\S)", "  ", made).strip() or None


class _Reader:
    """Reads tokens from left to right."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens[::-1]
        self._depth = 0
        self._commands: Mapping[str, Callable[[], str]] = {
            **dict.fromkeys(("frac", "dfrac", "tfrac", "cfrac"), self._fraction),
            **dict.fromkeys(_AS_TEXT, self._verbatim),
            **dict.fromkeys(_DROPPED, self._delimiter),
            **{name: lambda accent=accent: self._accented(accent) for name, accent in _ACCENTS.items()},  # type: ignore[misc]
            "sqrt": self._root,
            "boxed": lambda: f"[{self._group()}]",
            "mathbb": self._board,
            "not": lambda: self._group() + "\u0338",
            "pmod": lambda: f"(mod {self._group()})",
            "binom": lambda: f"C({self._group()}, {self._group()})",
        }

    def all(self) -> str:
        """Everything that is left."""
        parts = []
        while self._tokens:
            if self._tokens[-1] == "}":
                raise _Unknown
            parts.append(self._next())
        return "".join(parts)

    def _next(self) -> str:
        token = self._tokens.pop()
        if token == "{":
            return self._rest_of_group()
        if token in "^_":
            return self._script(_SUPER if token == "^" else _SUB, token)
        if token.isspace():
            return " "
        if token == "&":
            raise _Unknown
        if token == "'":
            return "′"
        return self._command(token[1:]) if token[0] == "\\" else token

    def _command(self, name: str) -> str:
        if name in self._commands:
            return self._commands[name]()
        if name in _SYMBOLS:
            return _SYMBOLS[name]
        if name in _NAMES:
            return name
        if name in _SPACES:
            return _SPACES[name]
        if name in "%$&#_{}":
            return name
        raise _Unknown

    def _group(self) -> str:
        """What a command takes: a group in braces, or one token."""
        while self._tokens and self._tokens[-1].isspace():
            self._tokens.pop()
        if not self._tokens or self._tokens[-1] == "}":
            raise _Unknown
        return self._next()

    def _rest_of_group(self) -> str:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise _Unknown
        parts = []
        while self._tokens and self._tokens[-1] != "}":
            parts.append(self._next())
        if not self._tokens:
            raise _Unknown
        self._tokens.pop()
        self._depth -= 1
        return "".join(parts)

    def _verbatim(self) -> str:
        """Text, in which nothing but braces and spaces means something."""
        if not self._tokens or self._tokens[-1] != "{":
            return self._group()
        self._tokens.pop()
        parts = []
        while self._tokens and self._tokens[-1] != "}":
            token = self._tokens.pop()
            if token == "{" or (token[0] == "\\" and token[1:] not in "%$&#_{} "):
                raise _Unknown
            parts.append(token[1:] if token[0] == "\\" else token)
        if not self._tokens:
            raise _Unknown
        self._tokens.pop()
        return "".join(parts)

    def _fraction(self) -> str:
        return f"{_whole(self._group())}/{_whole(self._group())}"

    def _root(self) -> str:
        degree = "2"
        if self._tokens and self._tokens[-1] == "[":
            self._tokens.pop()
            degree = ""
            while self._tokens and self._tokens[-1] != "]":
                degree += self._next()
            if not self._tokens:
                raise _Unknown
            self._tokens.pop()
        sign = _ROOTS.get(degree) or _mapped(degree, _SUPER) + "√"
        return sign + _whole(self._group())

    def _script(self, known: Mapping[str, str], mark: str) -> str:
        content = self._group().strip()
        if content == "∘":  # 90^\circ
            return "°"
        if all(char in known for char in content):
            return _mapped(content, known)
        return f"{mark}{content}" if len(content) == 1 else f"{mark}({content})"

    def _board(self) -> str:
        letter = self._group()
        if letter not in _BOARD:
            raise _Unknown
        return _BOARD[letter]

    def _accented(self, accent: str) -> str:
        letter = self._group()
        if len(letter) != 1:
            raise _Unknown
        return letter + accent

    def _delimiter(self) -> str:
        """`\\left.` is nothing; the delimiter itself comes as a token of its own."""
        if self._tokens and self._tokens[-1] == ".":
            self._tokens.pop()
        return ""


def _mapped(text: str, known: Mapping[str, str]) -> str:
    if not all(char in known for char in text):
        raise _Unknown
    return "".join(known[char] for char in text)


def _whole(text: str) -> str:
    """In brackets where it is more than a number, a name or something in brackets already."""
    text = text.strip()
    is_one = re.fullmatch(r"\w[\w.²³′°₀-₉⁰-⁹]*|[√∛∜]\w+|\([^()]*\)", text) is not None
    return text if is_one or len(text) == 1 else f"({text})"
