"""llama-cpp-python's own chat: what a program gets that does not use slm's loop.

Usage: high_level.py MODEL N_TOKENS THREADS MESSAGE N_CTX. One JSON line on stderr: tokens a second, seconds to the first.
"""

import json
import sys
import time

from llama_cpp import Llama


def main(model_path: str, n_tokens: int, threads: int, message: str, n_ctx: int) -> None:
    llama = Llama(model_path, n_ctx=n_ctx, n_threads=threads, n_threads_batch=threads, verbose=False)
    start = time.perf_counter()
    first = None
    count = 0
    messages = [{"role": "user", "content": message}]
    for event in llama.create_chat_completion(messages, stream=True, temperature=0.0, max_tokens=n_tokens):
        text = event["choices"][0]["delta"].get("content")
        if text:
            first = first or time.perf_counter()
            count += 1
            sys.stdout.write(text)
    end = time.perf_counter()
    assert first is not None
    print(json.dumps({"tps": (count - 1) / (end - first), "tokens": count, "ttft_s": first - start}), file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
