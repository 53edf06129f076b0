"""Tasks of `slm eval`: the suite that comes with slm, files of one's own and what may be wrong in them, Parquet."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cpu_time import is_linear

from slmchat.errors import ExitCode, SlmError
from slmchat.evaluation import answer_checks, parquet, task_catalog, task_files
from slmchat.evaluation.method import EvalMethod
from slmchat.evaluation.prompts import instruction_of
from slmchat.evaluation.records import EvalTask, TaskKind
from slmchat.evaluation.snappy import NotSnappy, decompressed
from slmchat.generation.numbers import last_number, number_in
from slmchat.schemas.check import SchemaCheck

DATA = Path(__file__).parent / "data" / "evaluation"


class TestSuite:
    """What was checked of each item by reading is that one answer is right; what a program can see is here."""

    @pytest.mark.parametrize("name", task_catalog.SUITE)
    def test_every_task_has_at_least_40_items_with_ids_of_their_own(self, name: str) -> None:
        task = task_catalog.load(name)
        assert len(task.items) >= 40
        assert len({item.id for item in task.items}) == len(task.items)
        assert task.title != name and task.license == "Apache-2.0"

    @pytest.mark.parametrize("name", task_catalog.SUITE)
    def test_nothing_is_asked_twice_and_no_example_is_asked(self, name: str) -> None:
        task = task_catalog.load(name)
        asked = [re.sub(r"\W+", " ", item.prompt).casefold().strip() for item in (*task.items, *task.examples)]
        assert [text for text, count in Counter(asked).items() if count > 1] == []

    @pytest.mark.parametrize("name", ["knowledge", "reasoning"])
    def test_the_right_choice_stands_everywhere_equally_often(self, name: str) -> None:
        task = task_catalog.load(name)
        assert {len(item.choices) for item in task.items} == {4}
        places = Counter(item.choices.index(item.answers[0]) for item in task.items)
        assert max(places.values()) - min(places.values()) <= 1
        assert task.chance == 0.25

    def test_the_length_of_a_choice_does_not_give_it_away(self) -> None:
        """Who always takes the longest or the shortest choice is not far from guessing."""
        items = [item for name in ("knowledge", "reasoning") for item in task_catalog.load(name).items]
        for pick in (max, min):
            right = sum(pick(item.choices, key=len) == item.answers[0] for item in items)
            assert 0.1 < right / len(items) < 0.4

    def test_sentiment_is_half_and_half(self) -> None:
        counts = Counter(item.answers[0] for item in task_catalog.load("sentiment").items)
        assert counts["positive"] == counts["negative"]

    def test_spans_stand_in_their_text_and_worked_answers_are_right(self) -> None:
        from slmchat.evaluation import grading

        for item in task_catalog.load("reading").items:
            text = item.prompt.partition("\n\nQuestion:")[0]
            assert any(grading.normalized(answer) in grading.normalized(text) for answer in item.answers), item.id
        for name in ("mathematics", "reading"):
            task = task_catalog.load(name)
            assert task.examples
            for example in task.examples:
                assert grading.grade(task.kind, example, example.worked).is_right

    def test_calls_keep_to_the_schemas_and_some_items_want_none(self) -> None:
        task = task_catalog.load("tools")
        none = [item for item in task.items if item.call is None]
        assert 5 <= len(none) < len(task.items) / 4
        called = Counter(item.call.name for item in task.items if item.call)
        assert set(called) == {tool.name for tool in task.items[0].tools}
        for item in task.items:
            if item.call is not None:
                chosen = {name: values[0] for name, values in item.call.arguments.items()}
                schema = next(tool.parameters for tool in item.tools if tool.name == item.call.name)
                assert SchemaCheck(schema).problem(chosen) is None, item.id

    def test_an_answer_that_may_be_right_is_not_cut(self) -> None:
        """Where an instruction allows so many words, there is room for more of them, in any vocabulary."""
        for item in task_catalog.load("instructions").items:
            words = item.checks.get("words", 0)
            most = words[1] if isinstance(words, list) else words
            assert item.max_tokens is None or item.max_tokens >= 1.5 * most + 8, item.id

    def test_no_empty_answer_satisfies_an_instruction(self) -> None:
        for item in task_catalog.load("instructions").items:
            assert answer_checks.failed("", item.checks), item.id

    @pytest.mark.parametrize(
        ("item", "answer"),
        [
            ("i01", "red, green, blue"),
            ("i02", "Deep blue water without end"),
            ("i03", "Every evening the two dogs run home."),
            ("i06", "- apple\n- pear\n- plum\n- fig"),
            ("i07", "1. Wet it.\n2. Add paste.\n3. Brush.\n4. Rinse.\n5. Smile."),
            ("i08", '```json\n{"name": "Ann", "age": 34}\n```'),
            ("i18", "Trees are tall.\n\nThey give shade."),
            ("i20", "Cats sleep a lot. That is all."),
            ("i22", "The blue bird saw a blue sky."),
            ("i26", '["carrot", "leek", "pea"]'),
            ("i34", "> It is bright.\n> It is warm.\n> It sets."),
            ("i35", "start\nStir the soup slowly.\nend"),
            ("i43", "Leaves fall down\nThe wind is cold\nFog hides the hill"),
            ("i44", "Ann, 34, Leeds"),
        ],
    )
    def test_answers_as_a_person_gives_them_are_right(self, item: str, answer: str) -> None:
        found = next(each for each in task_catalog.load("instructions").items if each.id == item)
        assert answer_checks.failed(answer, found.checks) == ()

    @pytest.mark.parametrize("name", task_catalog.PUBLIC)
    def test_public_tasks_are_pinned_and_have_a_licence(self, name: str) -> None:
        table = task_catalog.table(name)
        assert table.required("hub")["repo"] in table.required("source")
        assert table.required("license") and table.required("title")
        assert TaskKind(table.required("kind"))


def write(folder: Path, toml: str, *rows: object) -> Path:
    """A task file with its items beside it."""
    (folder / "mine.toml").write_text(toml)
    (folder / "mine.jsonl").write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return folder / "mine.toml"


class TestTaskFiles:
    def test_ten_minutes_are_enough(self, tmp_path: Path) -> None:
        task = task_files.load(
            write(
                tmp_path,
                'kind = "choices"\nprompt = "Mail: {mail}\\nTeam:"\nchoices = ["billing", "support"]\n',
                {"mail": "My card was charged twice.", "answer": "billing"},
                "",
                {"mail": "The page is white.", "answer": "support", "id": "white"},
            )
        )
        assert [item.id for item in task.items] == ["1", "white"]
        assert task.items[0].prompt == "Mail: My card was charged twice.\nTeam:"
        assert (task.items[1].choices, task.items[1].answers) == (("billing", "support"), ("support",))

    GOOD = 'kind = "exact"\n'
    TWO_TOOLS = 'kind = "tools"\n[[tool]]\nname = "go"\n[[tool]]\n'

    @pytest.mark.parametrize(
        ("toml", "row", "where", "says"),
        [
            ("", {}, "mine.toml", "'kind' is missing"),
            ('\nkind = "essay"\n', {}, "mine.toml, line 2", "'kind' must be one of choices"),
            ('kind = "exact"\nchoises = ["a"]\n', {}, "mine.toml, line 2", "did you mean choices?"),
            ('kind = "exact"\nmax_tokens = 0\n', {}, "mine.toml, line 2", "from 1 to 32768"),
            ('kind = "exact"\nprompt = ', {}, "mine.toml", "cannot be read as TOML"),
            ('kind = "exact"\n[hub]\nrepo = "a/b"\n', {}, "mine.toml, line 2", "repo, revision"),
            ('kind = "tools"\n[[tool]]\nname = "a b"\n', {}, "mine.toml, line 2", "must have a name"),
            (GOOD, "{", "mine.jsonl, line 2", "this is not JSON"),
            (GOOD, "[1]", "mine.jsonl, line 2", "not a JSON object"),
            (GOOD, {"question": "?"}, "mine.jsonl, line 2", "'answer' must be a text"),
            (GOOD, {"answer": "a"}, "mine.jsonl, line 2", "'question' is missing, and the prompt asks for it"),
            (GOOD, {"question": ["?"], "answer": "a"}, "mine.jsonl, line 2", "'question' must be a text"),
            (GOOD, {"question": "?", "answer": "a", "id": "1"}, "mine.jsonl, line 2", "stands in line 1 already"),
            (
                GOOD,
                {"question": "?", "answer": "a", "max_tokens": "few"},
                "mine.jsonl, line 2",
                "'max_tokens' must be a",
            ),
            ('kind = "number"\n', {"question": "?", "answer": "four"}, "mine.jsonl, line 2", "must be a number"),
            ('kind = "choices"\n', {"question": "?", "answer": "a"}, "mine.jsonl, line 2", "two or more different"),
            (
                'kind = "choices"\n',
                {"question": "?", "answer": "c", "choices": ["a", "b"]},
                "mine.jsonl, line 2",
                "one of the choices, word for word",
            ),
            (
                'kind = "instructions"\n',
                {"question": "?", "checks": {"wrods": 3}},
                "mine.jsonl, line 2",
                "has no check 'wrods'",
            ),
            (
                'kind = "instructions"\n',
                {"question": "?", "checks": {"words": [5, 1]}},
                "mine.jsonl, line 2",
                "wants a whole number or [least, most] for 'words'",
            ),
            (
                'kind = "tools"\n[[tool]]\nname = "go"\n',
                {"question": "?", "call": {"name": "fly"}},
                "mine.jsonl, line 2",
                "must name one of the tools",
            ),
            (
                'kind = "tools"\n[[tool]]\nname = "go"\n',
                {"question": "?", "call": {"name": "go", "arguments": {"to": 1}}},
                "mine.jsonl, line 2",
                "go has no parameter 'to'",
            ),
            (TWO_TOOLS + 'name = "a b"\n', {}, "mine.toml, line 4", "must have a name"),
            (TWO_TOOLS + 'name = "go"\n', {}, "mine.toml, line 4", "go: there is another function of this name"),
            (TWO_TOOLS + 'name = "fly"\ndesc = "x"\n', {}, "mine.toml, line 4", "fly: 'desc' is not a key"),
            (TWO_TOOLS + 'name = "fly"\ndescription = 3\n', {}, "mine.toml, line 4", "description must be a text"),
            (
                TWO_TOOLS + 'name = "fly"\nparameters = {properties = 3}\n',
                {"question": "?", "call": {"name": "fly", "arguments": {"to": 1}}},
                "mine.toml, line 4",
                "fly: its parameters cannot be used",
            ),
            (
                TWO_TOOLS + 'name = "fly"\nparameters = {properties.to = {type = "strin"}}\n',
                {"question": "?", "call": {"name": "fly", "arguments": {"to": 1}}},
                "mine.toml, line 4",
                "fly: its parameters cannot be used",
            ),
            (
                TWO_TOOLS + 'name = "fly"\nparameters = {properties.day = {enum = [2026-11-27]}}\n',
                {"question": "?", "call": None},
                "mine.toml, line 4",
                "fly: its parameters hold a date",
            ),
            ('kind = "choices"\nchoices = ["a", "a "]\n', {}, "mine.toml, line 2", "two or more different texts"),
        ],
    )
    def test_a_mistake_is_one_sentence_with_file_and_line(
        self, tmp_path: Path, toml: str, row: object, where: str, says: str
    ) -> None:
        first = {
            "question": "What?",
            "answer": "1",
            "id": 1,
            "choices": ["1", "2"],
            "checks": {"words": 1},
            "call": None,
        }
        with pytest.raises(SlmError) as caught:
            task_files.load(write(tmp_path, toml, first, row))
        assert caught.value.exit_code is ExitCode.USAGE
        assert f"{where}" in caught.value.message and says in caught.value.message
        assert "\n" not in caught.value.message

    def test_a_line_ends_where_an_editor_ends_it(self, tmp_path: Path) -> None:
        file = write(tmp_path, self.GOOD)
        right = '{"question": "One\u2028two\x85three?", "answer": "1"}'
        (tmp_path / "mine.jsonl").write_text(f"{right}\r\n{right}\n", "utf-8", newline="")
        assert [item.prompt for item in task_files.load(file).items] == ["One\u2028two\x85three?"] * 2
        (tmp_path / "mine.jsonl").write_text(f"{right}\n{{\n", "utf-8")
        with pytest.raises(SlmError, match=r"mine\.jsonl, line 2: this is not JSON"):
            task_files.load(file)

    def test_a_file_that_is_not_there_and_one_without_items(self, tmp_path: Path) -> None:
        with pytest.raises(SlmError, match="there is no task file") as caught:
            task_files.load(tmp_path / "no.toml")
        assert "slm eval --list" in (caught.value.hint or "")
        with pytest.raises(SlmError, match="has no items"):
            task_files.load(write(tmp_path, self.GOOD))

    def test_whatever_changes_a_score_makes_another_task(self, tmp_path: Path) -> None:
        rows = [{"question": "a", "answer": "b"}]
        made = task_files.load(write(tmp_path, self.GOOD, *rows)).fingerprint
        assert task_files.load(write(tmp_path, self.GOOD + 'title = "x"\n', *rows)).fingerprint == made
        assert task_files.load(write(tmp_path, self.GOOD + 'system = "x"\n', *rows)).fingerprint != made
        assert task_files.load(write(tmp_path, self.GOOD, {"question": "a", "answer": "c"})).fingerprint != made

    def test_functions_stand_in_the_system_message(self) -> None:
        task = task_catalog.load("tools")
        told = instruction_of(task, task.items[0])
        assert "<tools>" in told and '"convert_currency"' in told


class TestChecks:
    @pytest.mark.parametrize(
        ("checks", "right", "wrong"),
        [
            ({"words": 3}, "one, two - three!", "one two"),
            ({"words": [1, 2]}, "two words", "now three words"),
            ({"sentences": 2}, 'He said "No." Then he left', "One. Two. Three."),
            ({"sentences": 1}, "It costs 3.50 dollars.", "It costs. A lot."),
            ({"lines": 2}, "a\n\nb", "a"),
            ({"paragraphs": 2}, "a\nb\n\nc", "a\nb"),
            ({"characters": [1, 3]}, "abc", "abcd"),
            ({"bullets": 2}, "- a\n* b", "a\nb"),
            ({"numbered": 2}, "1. a\n2. b", "1. a\n3. b"),
            ({"contains": ["Cat"]}, "the cat sat", "concatenate"),
            ({"excludes": ["cat"]}, "concatenate", "a cat."),
            ({"without": "e,"}, "a cow", "a hen"),
            ({"count": {"no": 2}}, "No, no!", "no nobody"),
            ({"starts": "Dear"}, "Dear me", "My dear"),
            ({"ends": "end."}, "the end.", "the end. Or not"),
            ({"case": "upper"}, "PARIS 1", "Paris"),
            ({"case": "lower"}, "paris", "12"),
            ({"json": True}, "[1]", "1"),
            ({"json": ["a"]}, '{"a": 1}', '{"a": 1, "b": 2}'),
            ({"matches": r"\d+"}, "42", "42."),
        ],
    )
    def test_each(self, checks: dict[str, Any], right: str, wrong: str) -> None:
        assert answer_checks.problem_of(checks) is None
        assert answer_checks.failed(right, checks) == ()
        assert answer_checks.failed(wrong, checks) == tuple(checks)

    @pytest.mark.parametrize("check", ["words", "sentences", "bullets", "numbered", "paragraphs", "lines"])
    @pytest.mark.parametrize("text", ["-", ".", "\n", '."', "- ", "1. ", "\n ", "…x", "1.\n"])
    def test_a_text_is_read_once_whatever_it_is(self, check: str, text: str) -> None:
        holds = answer_checks.CHECKS[check].holds
        assert is_linear(lambda size: holds(f"a{text * size}a", 1), 3_000)

    @pytest.mark.parametrize("name", answer_checks.CHECKS)
    def test_nonsense_is_asked_of_none(self, name: str) -> None:
        for nonsense in (None, -1, {}, [], "" if name != "matches" else "("):
            assert answer_checks.problem_of({name: nonsense})


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "number"),
        [
            ("The answer is 72.", "72"),
            ("#### 1,250", "1250"),
            ("$18.50 in all", "18.5"),
            ("from 3 to 10.0", "10"),
            ("it is −4 degrees", "-4"),
            ("3 - 5 = -2", "-2"),
            ("1.5.", "1.5"),
            ("So 0.0", "0"),
            ("a 12-year-old", "12"),
            ("none", None),
            ("R2D2", None),
        ],
    )
    def test_the_last_number(self, text: str, number: str | None) -> None:
        assert last_number(text) == number

    @pytest.mark.parametrize(("text", "number"), [("17.50", "17.5"), (" $3 ", "3"), ("3 apples", None), ("1 2", None)])
    def test_a_text_that_is_a_number(self, text: str, number: str | None) -> None:
        assert number_in(text) == number


def _flat(value: dict[str, Any], name: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, inside in value.items():
        made |= _flat(inside, f"{name}{key}.") if isinstance(inside, dict) else {name + key: inside}
    return made


class TestParquet:
    """The files were written by pyarrow 26: Snappy, gzip and none; dictionaries and none; pages of both kinds."""

    def test_gsm8k_is_what_the_json_lines_say(self) -> None:
        wanted = [json.loads(line) for line in (DATA / "gsm8k.jsonl").read_text().splitlines()]
        assert parquet.rows((DATA / "gsm8k.parquet").read_bytes()) == wanted

    def test_lists_in_structures_nothing_and_several_row_groups(self) -> None:
        (first, second, third), *_ = [parquet.rows((DATA / "odd.parquet").read_bytes())[:3]]
        assert first == {"a": None, "b": [1, None, 3], "c": True, "d": 1.5, "e": None}
        assert second == {"a": "x", "b": [], "c": False, "d": None, "e": ["p"]}
        assert third == {"a": "y" * 70_000, "b": None, "c": None, "d": -2.0, "e": ["q", "r"]}
        assert parquet.rows((DATA / "arc.parquet").read_bytes())[1] == {
            "id": "Q1",
            "question": "What is 1?",
            "choices.text": ["it is 1", "it is 2", "none", "all of them"],
            "choices.label": ["A", "B", "C", "D"],
            "answerKey": "B",
        }

    @pytest.mark.slow
    @pytest.mark.parametrize("file", sorted(DATA.glob("*.parquet")), ids=lambda file: file.stem)
    def test_damage_is_named_and_takes_no_memory(self, file: Path) -> None:
        whole = file.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 60)):
            for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
                try:
                    parquet.rows(damaged)
                except parquet.NotReadable:
                    continue

    def test_snappy(self) -> None:
        assert decompressed(b"\x0b\x14hello \x12\x06\x00", 10 + 1) == b"hello hello"
        assert decompressed(b"\x09\x00a\x1e\x01\x00", 9) == b"a" * 9  # it repeats what it has just written
        for broken in (b"\x05\x00a", b"\x05\x01\x00", b"\x02\x0cabcd", b"\x09\x00a\x1e\x02\x00"):
            with pytest.raises((NotSnappy, IndexError)):
                decompressed(broken, broken[0])


PUBLIC_ROWS = {
    "arc-challenge": ("arc.parquet", "Question: What is 1?\nAnswer:", ("it is 1", "it is 2", "none", "all of them"), "it is 2"),
    "hellaswag": (
        "hellaswag.parquet",
        "Cooking: How to cook She takes a pan. then she",
        ("eats it 0", "eats it 1", "eats it 2", "eats it 3"),
        "eats it 1",
    ),
    "mmlu-pro": ("mmlu-pro.parquet", "Question: Which number is 1?\nAnswer:", tuple("0123456789"), "1"),
    "truthfulqa": (
        "truthfulqa.parquet",
        "Question: Is 1 true?\nAnswer:",
        ("Yes, always", "No, never", "I have no comment"),
        "No, never",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC_ROWS)
def test_rows_of_the_public_tasks_become_items(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files of the same columns as those on the Hub, with rows of slm's own."""
    file, prompt, choices, answer = PUBLIC_ROWS[name]
    monkeypatch.setattr("slmchat.evaluation.public_data.here", lambda spec: DATA / file)
    task = task_files.load(task_catalog.file_of(name), name)
    item = task.items[1]
    assert (item.prompt, item.choices, item.answers) == (prompt, choices, (answer,))


def test_gsm8k_has_the_number_behind_the_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmchat.evaluation.public_data.here", lambda spec: DATA / "gsm8k.parquet")
    task = task_files.load(task_catalog.file_of("gsm8k"), "gsm8k")
    solutions = [json.loads(line)["answer"] for line in (DATA / "gsm8k.jsonl").read_text().splitlines()]
    assert [item.answers for item in task.items] == [
        (solution.rpartition("#### ")[2].replace(",", ""),) for solution in solutions
    ]
    assert len(task.examples) == 3


class TestSelection:
    def task(self) -> EvalTask:
        return task_catalog.load("sentiment")

    def test_a_limit_takes_the_same_items_in_their_order_every_time(self) -> None:
        once, twice = (EvalMethod(limit=20).selected(self.task()) for _ in range(2))
        assert once.items == twice.items and len(once.items) == 20
        numbers = [int(item.id) for item in once.items]
        assert numbers == sorted(numbers) and numbers != list(range(1, 21))

    def test_more_than_there_is_takes_all(self) -> None:
        assert EvalMethod(limit=10_000).selected(self.task()).items == self.task().items

    def test_with_minutes_the_order_is_drawn_and_the_beginning_is_a_sample(self) -> None:
        drawn = EvalMethod(is_sampled=True).selected(self.task()).items
        assert drawn != self.task().items
        assert sorted(item.id for item in drawn) == sorted(item.id for item in self.task().items)
        five = EvalMethod(is_sampled=True, limit=5).selected(self.task()).items
        assert sorted(item.id for item in five) == sorted(
            item.id for item in EvalMethod(limit=5).selected(self.task()).items
        )

    def test_of_all_tasks_together_one_asks_a_sample_that_is_the_same_every_time_and_half_and_half(self) -> None:
        once, twice = (EvalMethod(is_suite=True).selected(self.task()) for _ in range(2))
        assert once.items == twice.items and len(once.items) == once.sample == 48
        assert Counter(item.answers[0] for item in once.items) == {"positive": 24, "negative": 24}
        numbers = [int(item.id) for item in once.items]
        assert numbers == sorted(numbers) and numbers[-1] > 150
        others = [name for name in task_catalog.SUITE if name != "sentiment"]
        assert {task_catalog.load(name).sample for name in others} == {None}

    def test_with_minutes_it_is_the_same_sample(self) -> None:
        drawn = EvalMethod(is_suite=True, is_sampled=True).selected(self.task()).items
        assert set(map(id, drawn)) == set(map(id, EvalMethod(is_suite=True).selected(self.task()).items))

    def test_who_names_a_task_or_a_limit_gets_what_they_asked_for(self) -> None:
        assert EvalMethod().selected(self.task()).items == self.task().items
        assert len(EvalMethod(is_suite=True, limit=100).selected(self.task()).items) == 100

    def test_choices_that_are_seldom_right_stay_seldom(self) -> None:
        """A sample has the answers of a task in their own shares, whatever these are."""
        items = [
            replace(self.task().items[0], id=str(n), answers=("positive" if n % 4 else "negative",)) for n in range(80)
        ]
        drawn = EvalMethod(limit=20).selected(replace(self.task(), items=tuple(items))).items
        assert Counter(item.answers[0] for item in drawn) == {"positive": 15, "negative": 5}

    def test_groups_do_not_depend_on_what_comes_behind_them(self) -> None:
        items = self.task().items
        groups = list(EvalMethod().groups(items))
        assert [item for group in groups for item in group] == list(items)
        assert list(EvalMethod().groups(items[:100]))[:2] == groups[:2]

    def test_a_method_comes_back_from_its_json(self) -> None:
        made = EvalMethod(limit=3, think="on", think_budget=9, n_ctx=512)
        assert EvalMethod.of_json(json.loads(json.dumps(made.as_json()))) == made
