"""The architectures of GGUF files: those that the pinned llama.cpp loads, and what those are for that do not answer.

Knows: names as `general.architecture` has them. Refuses to know: everything else that stands in a header.

Source of what is about llama.cpp: the copy in llama-cpp-python `VERSION` (vendor/llama.cpp), `LLM_ARCH_NAMES` in
src/llama-arch.cpp, `llama_model_has_encoder`, `llama_model_has_decoder` and `llm_arch_is_*` beside it. A test asks the
library whether it knows each of them, and compares `VERSION` with what pyproject.toml asks for.
"""

VERSION = "0.3.36"

KNOWN = frozenset({
    "llama", "llama4", "deci", "falcon", "grok", "gpt2", "gptj", "gptneox", "mpt", "baichuan", "starcoder",
    "refact", "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3",
    "eurobert", "bloom", "stablelm", "qwen", "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3next",
    "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp", "phi2", "phi3", "phimoe", "plamo", "plamo2",
    "plamo3", "codeshell", "orion", "internlm2", "minicpm", "minicpm3", "gemma", "gemma2", "gemma3", "gemma3n",
    "gemma4", "gemma4-assistant", "gemma-embedding", "starcoder2", "mamba", "mamba2", "maple", "jamba", "falcon-h1",
    "xverse", "command-r", "cohere2", "cohere2moe", "dbrx", "olmo", "olmo2", "olmoe", "muse-glimmer", "openelm",
    "arctic", "deepseek", "deepseek2", "deepseek2-ocr", "deepseek32", "deepseek4", "chatglm", "glm4", "glm4moe",
    "glm-dsa", "bitnet", "t5", "t5encoder", "jais", "jais2", "nemotron", "nemotron_h", "nemotron_h_moe", "exaone",
    "exaone4", "exaone-moe", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7", "granite", "granitemoe", "granitehybrid",
    "graniteswitch", "granite_swa", "chameleon", "wavtokenizer-dec", "plm", "bailingmoe", "bailingmoe2",
    "bailingmoe3", "dots1", "dots3note", "arcee", "afmoe", "laguna", "ernie4_5", "ernie4_5-moe", "hunyuan-moe",
    "hunyuan-dense", "hunyuan_vl", "hy_v3", "hy_v4", "smollm3", "gpt-oss", "lfm2", "lfm2moe", "dream",
    "smallthinker", "llada", "llada-moe", "seed_oss", "grovemoe", "apertus", "minimax-01", "hrm_text", "minimax-m2",
    "minimax-m3", "cogvlm", "rnd1", "pangu-embedded", "mistral3", "eagle3", "dflash", "mistral4", "paddleocr",
    "mimo2", "step35", "spark2_5", "llama-embed", "maincoder", "kimi-linear", "kimi-k3", "glm5-next", "talkie",
    "mellum", "nanbeige", "qwen3tts", "pockettts", "clip",
})  # fmt: skip

# Of these, those that write no text one token after another.
EMBEDDING = frozenset({
    "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "eurobert",
    "gemma-embedding", "llama-embed",
})  # fmt: skip
ENCODER = frozenset({"t5encoder"})
ENCODER_DECODER = frozenset({"t5"})
DIFFUSION = frozenset({"dream", "llada", "llada-moe", "rnd1"})
DRAFT_HEAD = frozenset({"eagle3", "dflash", "gemma4-assistant"})  # they need the context of the model they guess for
SPEECH = frozenset({"wavtokenizer-dec", "qwen3tts", "pockettts"})

# Not llama.cpp's: what image generators (ComfyUI-GGUF, stable-diffusion.cpp; from common files, not complete) and
# whisper.cpp put into GGUF files, and llama.cpp's own cvector-generator.
IMAGE = frozenset({
    "flux", "sd1", "sdxl", "sd3", "aura", "hidream", "cosmos", "ltxv", "hyvid", "wan", "lumina2", "qwen_image",
    "z_image",
})  # fmt: skip
IMAGE_TENSORS = ("model.diffusion_model.", "double_blocks.", "first_stage_model.", "down_blocks.", "joint_blocks.")
WHISPER = "whisper"
CONTROL_VECTOR = "controlvector"

# Layers without attention: all of them, or those whose number of KV heads is 0.
RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
RECURRENT_WITHOUT_KV_HEADS = frozenset({
    "jamba", "plamo2", "granitehybrid", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "kimi-linear",
    "bailingmoe3",
})  # fmt: skip

# What the graphs of llama.cpp assert (src/models/*.cpp: n_embd_head == n_embd_head_k, n_embd_head == n_rot), and how
# positions come in (`llama_model_rope_type` in llama-model.cpp).
SAME_LENGTHS = frozenset({
    "afmoe", "apertus", "arcee", "arctic", "baichuan", "bailingmoe2", "bitnet", "bloom", "chameleon", "chatglm",
    "codeshell", "cogvlm", "cohere2", "cohere2moe", "command-r", "dbrx", "deci", "deepseek", "dots1", "ernie4_5",
    "ernie4_5-moe", "exaone", "exaone-moe", "exaone4", "falcon", "gemma4", "glm4", "glm4moe", "gpt2", "gptneox",
    "gpt-oss", "granite", "granitemoe", "granite_swa", "granitehybrid", "graniteswitch", "grok", "grovemoe",
    "hunyuan-dense", "hunyuan-moe", "hunyuan_vl", "hy_v3", "internlm2", "jais", "jais2", "laguna", "llama",
    "llama4", "maincoder", "maple", "mellum", "minicpm", "minimax-01", "minimax-m2", "minimax-m3", "mistral3",
    "mpt", "muse-glimmer", "nanbeige", "nemotron", "nemotron_h", "nemotron_h_moe", "olmo", "olmo2", "olmoe",
    "openelm", "orion", "paddleocr", "pangu-embedded", "phi2", "phi3", "phimoe", "plamo", "qwen", "qwen2",
    "qwen2moe", "qwen2vl", "qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next", "qwen3vl", "qwen3vlmoe",
    "qwen4exp", "refact", "seed_oss", "smallthinker", "smollm3", "spark2_5", "stablelm", "starcoder", "starcoder2",
    "talkie", "xverse",
})  # fmt: skip
TURNS_WHOLE_HEADS = frozenset({
    "apertus", "arcee", "arctic", "baichuan", "chameleon", "codeshell", "cogvlm", "cohere2moe", "dbrx", "deci",
    "deepseek", "dots1", "ernie4_5", "ernie4_5-moe", "exaone", "exaone-moe", "exaone4", "falcon", "granite",
    "granitemoe", "granite_swa", "graniteswitch", "grok", "grovemoe", "hunyuan-dense", "hunyuan-moe", "hunyuan_vl",
    "hy_v3", "internlm2", "jais2", "llama", "llama4", "maincoder", "mellum", "minicpm",
    "mistral3", "olmo", "olmo2", "olmoe", "orion", "paddleocr", "pangu-embedded", "plamo", "qwen2",
    "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe", "seed_oss", "smallthinker", "smollm3",
    "starcoder2", "talkie", "xverse",
})  # fmt: skip
WITHOUT_ROPE = frozenset({
    "gpt2", "gptj", "mpt", "refact", "bloom", "mamba", "mamba2", "jamba", "jais", "rwkv6", "rwkv6qwen2", "rwkv7",
    "arwkv7", "nemotron_h", "nemotron_h_moe", "kimi-linear", "kimi-k3", "glm5-next",
})  # fmt: skip
IN_SECTIONS = frozenset({
    "qwen2vl", "paddleocr", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp",
})  # fmt: skip

# Latent attention: what is turned is a part of the key, and every layer has the same heads.
LATENT = frozenset({"deepseek2", "deepseek2-ocr", "deepseek32", "glm-dsa", "hy_v4", "minicpm3", "mistral4"})
