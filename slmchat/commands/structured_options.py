"""The options that say what a completion has to look like, and the files that they name.

Knows: `--json-output`, `--schema`, `--fields`, `--grammar`, `--regex`, `--choices` and what goes with them.
Refuses to know: what a format or a choice is to a model (generation/).
"""

import re
import sys
from collections.abc import Iterator, Mapping

from slmchat.errors import SlmError, usage_error
from slmchat.generation.classify import ClassificationTask, problem_of
from slmchat.generation.structured import (
    ResponseFormat,
    of_any_json,
    of_fields,
    of_grammar,
    of_regex,
    of_schema,
    only_one,
    parsed,
)
from slmchat.options import ChoiceOptions, FormatOptions, TemplateOptions
from slmchat.text_files import text_of
from slmchat.user_paths import user_path

_MOST_SCHEMA = 1 << 20  # bytes


def formats_of(
    wanted: tuple[FormatOptions, ChoiceOptions], *, is_stdin_taken: bool
) -> tuple[ResponseFormat | None, dict[str, ClassificationTask]]:
    """What the answer has to be: in a format, or one of some choices for each question, or neither.

    What has choices stands by the names of the questions, "" where there is one. Raises `SlmError` (USAGE).
    """
    format_options, choice_options = wanted
    if len(choice_options.choices) > 1:
        return None, questions_of(choice_options)
    task = classification_task_of(choice_options)
    response_format = response_format_of(format_options, is_stdin_taken=is_stdin_taken)
    if task is not None and response_format is not None:
        raise usage_error("an answer cannot be one of --choices and in another format.")
    if task is not None and choice_options.logprobs:
        raise usage_error("--choices have probabilities of their own, without --logprobs.")
    return response_format, {} if task is None else {"": task}


def response_format_of(options: FormatOptions, *, is_stdin_taken: bool = False) -> ResponseFormat | None:
    """The format that the options ask for, None when they ask for none.

    Reads the files that they name, and standard input for `--schema -` unless that `is_stdin_taken`. Everything that
    can be wrong with a schema, its grammar or a regular expression is found here, before a model is loaded. Raises
    `SlmError` (USAGE).
    """
    given = only_one(_flags(options))
    if given is None:
        return None
    flag, value = given
    if flag == "--regex":
        return of_regex(str(value))
    if flag == "--grammar":
        return of_grammar(_read(str(value), flag))
    if flag == "--json-output":
        return of_any_json()
    if flag == "--fields":
        return of_fields(str(value))
    return of_schema(parsed(_schema_text(str(value), is_stdin_taken=is_stdin_taken)))


def _flags(options: FormatOptions) -> Mapping[str, str | bool | None]:
    return {
        "--json-output": options.json_output,
        "--schema": options.schema,
        "--fields": options.fields,
        "--grammar": options.grammar,
        "--regex": options.regex,
    }


def _schema_text(given: str, *, is_stdin_taken: bool) -> str:
    """The schema itself where it begins with a brace, else what the file (- is stdin) holds."""
    if given.lstrip().startswith("{"):
        return given
    if given != "-":
        return _read(given, "--schema")
    if is_stdin_taken:
        raise usage_error("standard input cannot be the schema and the input.")
    return _decoded(sys.stdin.buffer.read(_MOST_SCHEMA + 1), "standard input")


def _read(name: str, flag: str) -> str:
    if not name:
        raise usage_error(f"{flag} needs the name of a file.")
    try:
        with user_path(name).open("rb") as file:
            return _decoded(file.read(_MOST_SCHEMA + 1), name)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not the name of a file"
        raise usage_error(f"{flag}: {name} cannot be read: {reason}.") from error


def _decoded(data: bytes, what: str) -> str:
    """A schema or grammar of a size that makes sense. Raises `SlmError` (USAGE)."""
    if len(data) > _MOST_SCHEMA:
        raise usage_error(f"{what} is larger than 1 MiB.")
    return text_of(data, what)


def questions_of(options: ChoiceOptions) -> dict[str, ClassificationTask]:
    """The questions that several `--choices NAME=A,B` ask, by their names. Raises `SlmError` (USAGE)."""
    asked: dict[str, ClassificationTask] = {}
    for given in options.choices:
        name, equals, texts = given.partition("=")
        name = name.strip()
        if not equals or not name:
            raise _wrong(f"'{given}' has no name, and there are several questions", _SEVERAL)
        if name in asked:
            raise _wrong(f"the question {name} stands there twice", _SEVERAL)
        asked[name] = _task(texts, options)
    return asked


def refuse_beside_questions(wanted: tuple[FormatOptions, ChoiceOptions], template: TemplateOptions) -> None:
    """Raises `SlmError` (USAGE) for what does not go together with several `--choices`."""
    if wanted[0] != FormatOptions() or wanted[1].logprobs:
        raise usage_error("an answer cannot be one of --choices and in another format.")
    if template != TemplateOptions():
        raise usage_error("several --choices take the prompt as words, with {name} in it.")


def classification_task_of(options: ChoiceOptions) -> ClassificationTask | None:
    """What the options ask for, None when there are no choices. Raises `SlmError` (USAGE)."""
    if not options.choices:
        for flag, value in (("--threshold", options.threshold), ("--calibrate", options.calibrate)):
            if value is not None:
                hint = "for example: --choices positive,negative"
                raise usage_error(f"{flag} needs --choices.", hint)
        return None
    return _task(options.choices[0], options)


def _task(given: str, options: ChoiceOptions) -> ClassificationTask:
    texts = tuple(choices_in(given))
    problem = problem_of(texts, options.threshold)
    if problem:
        raise _wrong(problem)
    return ClassificationTask(texts, options.threshold, is_calibrated=options.calibrate is not False)


def choices_in(text: str) -> Iterator[str]:
    r"""The texts between the commas, without the white space around them. `\,` is a comma, `\\` a backslash, `\n` a
    line feed, `\t` a tab; a backslash before anything else is one."""
    for piece in _pieces(text):
        yield re.sub(r"\\([,\\nt])", lambda found: _ESCAPED[found[1]], piece.strip())


def _pieces(text: str) -> Iterator[str]:
    begin = place = 0
    while place < len(text):
        if text[place] == "\\":
            place += 1
        elif text[place] == ",":
            yield text[begin:place]
            begin = place + 1
        place += 1
    yield text[begin:]


_ESCAPED = {",": ",", "\\": "\\", "n": "\n", "t": "\t"}


_ONE = r'for example: --choices positive,negative,neutral (a comma inside of one: "yes\, please,no")'
_SEVERAL = "for example: --choices mood=good,bad --choices topic=sport,politics"


def _wrong(what: str, hint: str = _ONE) -> SlmError:
    return usage_error(f"--choices cannot be used: {what}.", hint)
