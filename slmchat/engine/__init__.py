"""Inference: prompts to chunks. The only package that imports llama_cpp; it knows nothing of conversations."""
