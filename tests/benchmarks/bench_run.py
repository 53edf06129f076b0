"""`slm run` against everything else that runs a GGUF with llama.cpp here: generation rate and whole process.

Peers: the bare loop always; llama-cpp-python's own chat; llama-bench, llama-server and llama-completion when they are on
the PATH. Chat models are also asked through the chat template, as llama-cpp-python's own chat does it.
"""

import shutil

import programs
import server_peer
from targets import Target, pairs

N_RATE, N_PROCESS = 128, 32
N_CHAT = 256  # long enough to see that the high-level chat detokenizes its whole answer again at every token
QUESTION = "Write a long story about a fox who wants to cross the river."


def measure(repeat: int) -> list[Target]:
    return [target for model in programs.MODELS for target in (*_rates(model, repeat), *_processes(model, repeat))]


def _rates(model: str, repeat: int) -> list[Target]:
    def ours() -> float:
        return programs.slm_rate(model, N_RATE, "--raw")

    def against(peer: str, goal: float, measured: tuple[list[float], list[float], list[float]]) -> Target:
        ratios, mine, theirs = measured
        return Target(
            f"{model}: generation rate against {peer}", goal, ratios, {"slm tok/s": mine, f"{peer} tok/s": theirs}, True
        )

    found = [against("the bare loop", 0.98, pairs(repeat, ours, lambda: programs.bare_rate(model, N_RATE)))]
    if program := shutil.which("llama-bench"):
        measured = pairs(repeat, ours, lambda: programs.llama_bench_rate(program, model, N_RATE))
        found.append(against("llama-bench tg128", 0.97, measured))
    if program := shutil.which("llama-server"):
        with server_peer.served(program, model, 512) as rate:
            found.append(against("llama-server", 0.98, pairs(repeat, ours, lambda: rate(N_RATE))))
    if model == programs.MODELS[0]:  # the other one is a base model without a chat template
        measured = pairs(
            repeat,
            lambda: programs.slm_rate(model, N_CHAT, "--ctx", "512"),
            lambda: programs.high_level_rate(model, N_CHAT, QUESTION, 512),
        )
        found.append(against("create_chat_completion(stream=True)", 1.0, measured))
    return found


def _processes(model: str, repeat: int) -> list[Target]:
    """The whole program, from its start to its end, for a short answer."""
    peers = {"the bare loop": programs.bare_loop(model, N_PROCESS)}
    if program := shutil.which("llama-completion"):
        peers["llama-completion"] = [
            *(program, "-m", programs.path_of(model), "--temp", "0", "-n", str(N_PROCESS)),
            *("-t", str(programs.THREADS), "-c", "512", "-no-cnv", "-p", programs.PROMPT),
        ]
    found = []
    for peer, command in peers.items():
        ratios, mine, theirs = pairs(
            repeat,
            lambda: programs.run(programs.slm_run(model, N_PROCESS, "--raw")).seconds,
            lambda command=command: programs.run(command).seconds,  # type: ignore[misc]
        )
        raw = {"slm s": mine, f"{peer} s": theirs}
        found.append(Target(f"{model}: whole process, {N_PROCESS} tokens, against {peer}", 1.25, ratios, raw, False))
    return found
