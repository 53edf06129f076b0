"""The least that can be done with llama-cpp-python's low-level bindings: what slm is measured against.

Usage: bare_loop.py MODEL N_TOKENS THREADS PROMPT. Prints the text, then one JSON line on stderr with seconds and rate.
"""

import json
import sys
import time

import llama_cpp as api


def main(model_path: str, n_tokens: int, threads: int, prompt: str) -> None:
    @api.llama_log_callback
    def silent(_level: int, _text: bytes, _data: object) -> None:
        pass

    api.llama_log_set(silent, None)
    api.llama_backend_init()
    model = api.llama_model_load_from_file(model_path.encode(), api.llama_model_default_params())
    params = api.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 512, threads, threads
    context = api.llama_init_from_model(model, params)
    vocab = api.llama_model_get_vocab(model)
    data = prompt.encode()
    tokens = (api.llama_token * (len(data) + 8))()
    count = api.llama_tokenize(vocab, data, len(data), tokens, len(tokens), True, False)
    chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
    api.llama_sampler_chain_add(chain, api.llama_sampler_init_greedy())
    api.llama_decode(context, api.llama_batch_get_one(tokens, count))
    single = (api.llama_token * 1)()
    piece = bytes(64)
    start = time.perf_counter()
    for _ in range(n_tokens):
        token = api.llama_sampler_sample(chain, context, -1)
        size = api.llama_token_to_piece(vocab, token, piece, 64, 0, False)
        sys.stdout.buffer.write(piece[: max(0, size)])
        single[0] = token
        api.llama_decode(context, api.llama_batch_get_one(single, 1))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "tps": n_tokens / seconds}), file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
