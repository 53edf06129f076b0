"""Peak resident memory of `slm run` over the bare loop's at the same context, in MiB."""

import programs
from targets import Target, rounds

N_TOKENS = 32
CONTEXTS = (512, 4096)


def measure(repeat: int) -> list[Target]:
    return [_over(model, n_ctx, repeat) for model in programs.MODELS for n_ctx in CONTEXTS]


def _over(model: str, n_ctx: int, repeat: int) -> Target:
    mine, theirs = [], []
    for _ in rounds(repeat):
        mine.append(programs.run(programs.slm_run(model, N_TOKENS, "--raw", "--ctx", str(n_ctx))).peak_mib)
        theirs.append(programs.run(programs.bare_loop(model, N_TOKENS, n_ctx)).peak_mib)
    over = [a - b for a, b in zip(mine, theirs, strict=True)]
    raw = {"slm MiB": mine, "bare loop MiB": theirs}
    return Target(f"{model}: peak memory over the bare loop's, window {n_ctx:,}", 60, over, raw, False, "MiB")
