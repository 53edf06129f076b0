"""Will it fit, with which quantization, context and offload; how fast it will be.

Knows: arithmetic over a GGUF header's shape and the facts about a device. Refuses to know: files, networks, terminals.
"""
