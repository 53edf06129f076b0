"""How many completions at once: what memory allows, and what measured speed rewards.

Knows: sizes of KV caches, rates. Refuses to know: llama.cpp, requests, texts.
"""

import math

from slmchat.lazy_dataclasses import dataclass

# Bytes of one number in the KV cache: f16; blocks of 32 with a 2-byte scale (ggml-common.h: block_q8_0, block_q4_0).
KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}

# No more at once than this when nobody asks: on two cores nothing is gained beyond 16 (docs/performance.md).
MOST_AT_ONCE = 32

# Answers at once that a server reads out when nobody asks: with more, each of them is slow to read on a small device.
STREAMS_AT_ONCE = 4

# Cells of the KV cache for each completion, besides one whole context window that any of them may use. Rows of a batch
# are short; where they are not, fewer of them run at once.
_CELLS_EACH = 256

# Of a split KV cache: sequences beside those of completions, where conversations wait; what llama.cpp rounds the cells
# of each up to (llama-context.cpp); bytes that it takes at most when nobody has said how many completions there are to
# be.
_MORE_SPLIT = 1
_PADDED = 256
_LARGEST_UNASKED = 256 * 2**20

# Share of the memory that could be had now which the KV cache may take.
_MEMORY_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class CellPlan:
    """`cells` of one KV cache shared by up to `most` completions; `is_fixed`: the number was asked for.

    `n_split`: sequences that have an equal share of the cells each; 0: all share all of them.
    """

    cells: int
    most: int
    is_fixed: bool
    why: str
    n_split: int = 0


def plan_cells(n_ctx: int, parallel: int | None, cell_bytes: float, memory: int | None) -> CellPlan:
    """The size of the KV cache for completions with a context window of `n_ctx` tokens each.

    `cell_bytes`: bytes of a token in the cache; `memory`: bytes that could be had, None when nobody knows.
    One whole window is always there.
    """
    most = parallel or MOST_AT_ONCE
    wanted = min(n_ctx * most, n_ctx + _CELLS_EACH * most)
    affordable = int(memory * _MEMORY_SHARE / cell_bytes) if cell_bytes and memory is not None else wanted
    cells = max(n_ctx, min(wanted, affordable))
    if parallel is not None:
        return CellPlan(cells, most, True, "as asked for")
    fitting = max(1, min(most, cells // _CELLS_EACH))
    size = cells * cell_bytes / 2**20
    return CellPlan(cells, fitting, False, f"a KV cache of {cells:,} tokens, {size:,.0f} MiB")


def plan_streams(
    n_ctx: int, parallel: int | None, cell_bytes: float, memory: int | None, *, can_split: bool = False
) -> CellPlan:
    """The size of the KV cache for completions of a server.

    Where memory allows, each completion has a whole window of `n_ctx` tokens for itself, and there is one more for a
    conversation that waits: then no token is compared with the cells of others (sequences.py). Else, or where the
    memory of the model is not of that kind (`can_split`), it is two windows that all share: few conversations fill
    theirs, and when the cells run out, those that wait for their next message go first. `parallel` None:
    `STREAMS_AT_ONCE`. The rest as in `plan_cells`.
    """
    most = parallel or STREAMS_AT_ONCE
    each = -(-n_ctx // _PADDED) * _PADDED
    n_split = most + _MORE_SPLIT
    room = memory * _MEMORY_SHARE if memory is not None else math.inf
    limit = room if parallel else min(room, _LARGEST_UNASKED)
    if can_split and cell_bytes and n_split * each * cell_bytes <= limit:
        size = n_split * each * cell_bytes / 2**20
        why = f"KV caches of {n_ctx:,} tokens each, {size:,.0f} MiB"
        return CellPlan(n_split * each, most, parallel is not None, why, n_split)
    wanted = n_ctx * min(2, most)
    affordable = int(room / cell_bytes) if cell_bytes and memory is not None else wanted
    cells = max(n_ctx, min(wanted, affordable))
    size = cells * cell_bytes / 2**20
    return CellPlan(cells, most, parallel is not None, f"a KV cache of {cells:,} tokens, {size:,.0f} MiB")


class Growth:
    """Doubles the number of completions at once for as long as all of them together get faster.

    What is compared is the time that full steps take for each token. A prompt token counts as a fraction of a generated
    one, because it costs about that, so that steps with new prompts do not look fast. The quicker quarter of the steps
    counts: other programs on the device only ever make a step slower. Short rows begin with twice as many: there 16 at
    once were quicker than 8 wherever it was measured (docs/decisions.md), and most batches are over soon.
    """

    _PROMPT_WEIGHT = 0.3
    _FIRST = 8
    _SHORT_ROW = 32  # tokens of a prompt that are its own
    _STEPS = 16  # full steps that are compared
    _GAIN = 1.05  # a doubling must bring this to be kept

    def __init__(self, plan: CellPlan) -> None:
        self._most = plan.most
        self.allowed = plan.most if plan.is_fixed else min(self._FIRST, plan.most)
        self._is_settled = self.allowed == plan.most
        self._best: tuple[float, int] | None = None  # seconds for each token, and with how many at once
        self._costs: list[float] = []

    def begins(self, n_own: int) -> None:
        """A row with so many tokens of its own begins."""
        if self._best is None and not self._costs and not self._is_settled and n_own <= self._SHORT_ROW:
            self.allowed = min(2 * self._FIRST, self._most)
            self._is_settled = self.allowed == self._most

    def note(self, n_generated: int, n_prompt: int, n_busy: int, seconds: float) -> None:
        """One step: tokens generated, tokens of prompts evaluated, completions that it was for."""
        if self._is_settled or n_busy < self.allowed:
            return
        self._costs.append(seconds / (n_generated + self._PROMPT_WEIGHT * n_prompt))
        if len(self._costs) == self._STEPS:
            self._decide(sorted(self._costs)[self._STEPS // 4])
            self._costs.clear()

    def _decide(self, cost: float) -> None:
        if self._best is not None and cost * self._GAIN > self._best[0]:
            self.allowed = self._best[1]
            self._is_settled = True
            return
        self._best = (cost, self.allowed)
        self._is_settled = self.allowed == self._most
        self.allowed = min(self._most, 2 * self.allowed)
