"""The least that can be done with llama-cpp-python's low-level bindings: what slm is measured against.

Usage: bare_loop.py MODEL N_TOKENS THREADS PROMPT [N_CTX]. Prints the text, then one JSON line on stderr: seconds of the
generation, tokens a second, seconds to the first token, and the seconds of each tenth of the generation.
The first token comes from the prompt's logits, so that N tokens are N - 1 decodes, as slm counts them.
"""

import itertools
import json
import sys
import time

import llama_cpp as api


def main(model_path: str, n_tokens: int, threads: int, prompt: str, n_ctx: int) -> None:
    @api.llama_log_callback
    def silent(_level: int, _text: bytes, _data: object) -> None:
        pass

    api.llama_log_set(silent, None)
    api.llama_backend_init()
    model = api.llama_model_load_from_file(model_path.encode(), api.llama_model_default_params())
    params = api.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = n_ctx, threads, threads
    context = api.llama_init_from_model(model, params)
    vocab = api.llama_model_get_vocab(model)
    data = prompt.encode()
    tokens = (api.llama_token * (len(data) + 8))()
    count = api.llama_tokenize(vocab, data, len(data), tokens, len(tokens), True, False)
    chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
    api.llama_sampler_chain_add(chain, api.llama_sampler_init_greedy())
    before = time.perf_counter()
    api.llama_decode(context, api.llama_batch_get_one(tokens, count))
    single = (api.llama_token * 1)()
    batch = api.llama_batch_get_one(single, 1)
    piece = bytes(64)
    start = time.perf_counter()
    marks = [start]
    for number in range(1, n_tokens + 1):
        token = api.llama_sampler_sample(chain, context, -1)
        size = api.llama_token_to_piece(vocab, token, piece, 64, 0, False)
        sys.stdout.buffer.write(piece[: max(0, size)])
        sys.stdout.buffer.flush()  # somebody reads along
        if number * 10 // n_tokens >= len(marks):
            marks.append(time.perf_counter())
        if number < n_tokens:
            single[0] = token
            api.llama_decode(context, batch)
    seconds = time.perf_counter() - start
    tenths = [after - before for before, after in itertools.pairwise(marks)]
    result = {"seconds": seconds, "tps": (n_tokens - 1) / seconds, "ttft_s": start - before, "tenths": tenths}
    print(json.dumps(result), file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int((sys.argv[5:] or ["512"])[0]))
