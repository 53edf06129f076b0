"""What a wrong command line is answered with: the sentence and the line that would be right."""

import pytest

from slmchat.cli import run_cli


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        (
            ["--temp", "0", "run", "hi"],
            "there is no option --temp.",
            "--temp goes behind the command: slm run --temp …",
        ),
        (["--quant", "Q8_0", "pull", "x"], "there is no option --quant.", "slm pull --quant …"),
        (["run", "-5 plus 3"], "there is no option -5.", 'slm run -- "-5 plus 3"'),
        (["run", "-temp", "0", "hi"], "there is no option -t.", "did you mean --temp?"),
        (["run", "--tmp", "0"], "there is no option --tmp.", "did you mean --temp"),
        (["batch", "--no-input", "hi"], "there is no option --no-input.", "it is an option of slm run\n"),
        (["serve", "-m", "a:1b"], "there is no option -m.", "without -m: slm serve a:1b\n"),
        (["bench", "--model"], "there is no option --model.", "without --model: slm bench NAME\n"),
        (["rnu"], "no such command 'rnu'.\n", "did you mean slm run?"),
        (["sessions", "shw"], "no such command 'shw'.\n", "did you mean slm sessions show?"),
        (["run", "-n", "-1", "hi"], "-1 is not a whole number from 1 on.", "without -n"),
        (
            ["run", "--seed", str(2**64), "hi"],
            f"{2**64} is not a whole number from 0 to 4,294,967,294.",
            "slm run --help",
        ),
        (["run", "--think-budget", "10000001", "hi"], "is not a whole number from 0 to 10,000,000.", "slm run --help"),
        (["run", "--top-p", "3", "hi"], "3 is not a number from 0 to 1.", "slm run --help"),
        (["run", "--temp", "nan", "hi"], "invalid value for '--temp': nan is not a number from 0 to 10.\n", ""),
        (["batch", "--choices", "a,b", "--threshold", "NaN"], "nan is not a number from 0 to 1.", ""),
        (["eval", "--minutes", "nan"], "nan is not a number from ", ""),
        (["run", "--seed", "x", "hi"], "'x' is not a whole number.", "slm run --help"),
        (["pull", "--source"], "option '--source' requires an argument.", "slm pull --help"),
    ],
)
def test_a_wrong_line_is_answered_with_the_right_one(
    arguments: list[str], says: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(arguments) == 2
    told = capsys.readouterr().err
    assert says in told
    assert hint in told
    assert "Traceback" not in told and "?." not in told
