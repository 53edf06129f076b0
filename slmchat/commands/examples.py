"""The examples at the end of each command's help: what people copy first.

Knows: command lines that work as they stand, given the files that they name.
Refuses to know: how help is laid out. A test reads each of them with the options as they are.
"""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "pull": ("slm pull smollm2:135m", "slm pull --dry-run gemma3:4b@Q8_0", "slm pull hf:Qwen/Qwen3-0.6B-GGUF@Q8_0"),
    "run": (
        'slm run "Why is the sky blue?"',
        'git diff | slm run "Write a commit message."',
        'slm run -x -o sort.py "Sort the lines of stdin in Python."',
        'cat mail.txt | slm run --fields "name, age int, tags[]" "Who wrote this?"',
        'slm run --regex "(yes|no)" -f report.txt "Is it finished?"',
        'slm run --choices positive,negative -f review.txt "What is the sentiment?"',
        "slm run --template-file review.txt --var tone=kind -f main.py",
        'slm run --best-of 5 --vote number "What are 15 % of 80, plus 3?"',
    ),
    "batch": (
        'slm batch --choices positive,negative "What is the sentiment?" < reviews.txt > answers.jsonl',
        'slm batch --resume out.jsonl -f people.csv --format csv "Write to {name} in {city}."',
        'slm batch --fields "topic, urgent bool" -f a.txt -f b.txt "What is this mail about?"',
    ),
    "ask": (
        'slm ask "How often is the filter cleaned?" -d manual.pdf',
        'slm ask "What does it cost to cancel?" -d contracts --quotes-only',
        "slm ask -d handbook --json < questions.txt",
    ),
    "embed": (
        'slm embed "The cat sits outside." "A cat is sitting in the garden."',
        "slm embed --input-field text < articles.jsonl > vectors.jsonl",
    ),
    "chat": ("slm chat", "slm chat gemma3:1b -p translator", "slm chat -c", "slm chat -f notes.txt --private"),
    "list": ("slm list", "slm list --available", "slm list --json | jq -r .[].name"),
    "show": ("slm show smollm2:135m", "slm show --json ~/models/own.gguf"),
    "rm": ("slm rm smollm2:135m gemma3:4b@Q8_0",),
    "add": ("slm add mine ~/models/own.gguf", "slm add small hf:Qwen/Qwen3-0.6B-GGUF@Q8_0"),
    "verify": ("slm verify", "slm verify smollm2:135m"),
    "sessions": ("slm sessions list", "slm sessions search rayleigh scattering"),
    "sessions list": ("slm sessions list --limit 10", "slm sessions list --json"),
    "sessions show": ("slm sessions show 3f2a", 'slm sessions show "Trip to Rome"'),
    "sessions search": ("slm sessions search rayleigh scattering", "slm sessions search '\"blue sky\"'"),
    "sessions export": ("slm sessions export 3f2a > chat.md", "slm sessions export 3f2a --format json -o chat.json"),
    "sessions import": ("slm sessions import chat.json",),
    "sessions rename": ('slm sessions rename 3f2a "Trip to Rome"',),
    "sessions rm": ("slm sessions rm 3f2a", "slm sessions rm --all --yes"),
    "docs": ("slm docs list", "slm docs rm ~/notes"),
    "docs list": ("slm docs list", "slm docs list --json | jq -r .[].path"),
    "docs show": ("slm docs show manual.pdf",),
    "docs rm": ("slm docs rm manual.pdf", "slm docs rm --all --yes"),
    "serve": ("slm serve", "slm serve smollm2:135m --port 8484", "slm serve --background", "slm serve --stop"),
    "bench": ("slm bench", "slm bench smollm2:135m --depth 0 --depth 4096 --json", "slm bench --plot"),
    "eval": (
        "slm eval smollm2:135m",
        "slm eval gemma3:1b qwen3:0.6b smollm2:1.7b --minutes 15",
        "slm eval --task mathematics --task mails.toml --limit 20 gemma3:1b",
        "slm eval gemma3:1b --quantizations",
        "slm eval --list",
    ),
    "doctor": ("slm doctor", "slm doctor smollm2:135m"),
    "tune": ("slm tune", "slm tune smollm2:135m", "slm tune --reset"),
    "privacy": ("slm privacy", "slm privacy --check"),
    "help": ("slm help run", "slm help sessions list"),
    "completion": ('eval "$(slm completion bash)"', "slm completion fish > ~/.config/fish/completions/slm.fish"),
}
