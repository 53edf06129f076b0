"""Which prompts of a group begin alike: tokens alone, no model."""

import random

from slmchat.engine.branches import Branch, branches
from slmchat.engine.image_tokens import numbers

TEXTS = [[100 + n, *range(20 * n, 20 * n + 19)] for n in range(5)]
HEAD = list(range(1000, 1010))


def _set(found: list[Branch]) -> set[tuple[int, frozenset[int]]]:
    return {(branch.n_tokens, frozenset(branch.members)) for branch in found}


def test_questions_behind_a_text_are_a_branch_for_each_text() -> None:
    prompts = [HEAD + text + [7, question] for text in TEXTS for question in range(3)]
    random.Random(1).shuffle(prompts)
    found = branches(prompts, [len(HEAD)] * len(prompts), 10)
    assert len(found) == 5
    for branch in found:
        assert branch.n_tokens == len(HEAD) + 20 + 1
        assert len({tuple(prompts[place][: branch.n_tokens]) for place in branch.members}) == 1


def test_questions_before_a_text_are_a_branch_for_each_question() -> None:
    questions = [[n] * 12 for n in range(3)]
    prompts = [HEAD + questions[n % 3] + text for n, text in enumerate(TEXTS * 3)]
    found = branches(prompts, [len(HEAD)] * len(prompts), 10)
    # the same text behind the same question stands there five times three: never twice with one question
    assert sum(len(branch.members) for branch in found) == len(prompts)
    assert {prompts[branch.members[0]][len(HEAD)] for branch in found} == {0, 1, 2}


def test_what_is_shared_anyway_is_no_branch() -> None:
    prompts = [HEAD + text for text in TEXTS]
    assert branches(prompts, [len(HEAD)] * 5, 10) == []
    assert _set(branches(prompts, [0] * 5, 10)) == {(len(HEAD), frozenset(range(5)))}


def test_the_last_token_of_a_prompt_is_its_own() -> None:
    prompts = [[*HEAD, *TEXTS[0]]] * 3
    (branch,) = branches(prompts, [0] * 3, 10)
    assert branch.n_tokens == len(prompts[0]) - 1
    shorter = prompts[0][:-4]
    (branch,) = branches([prompts[0], shorter], [0, 0], 10)
    assert branch.n_tokens == len(shorter) - 1


def test_the_branches_that_save_most_are_kept() -> None:
    prompts = [HEAD + text[: 12 + n] + [7, question] for n, text in enumerate(TEXTS) for question in range(2)]
    found = branches(prompts, [len(HEAD)] * len(prompts), 2)
    assert {branch.n_tokens for branch in found} == {len(HEAD) + 12 + 4 + 1, len(HEAD) + 12 + 3 + 1}


def test_a_branch_ends_before_an_image_or_behind_it() -> None:
    shown = list(numbers("a", 12))
    like_it = [*shown[:9], *(number ^ 2 for number in shown[9:])]
    one, other = [*HEAD, *shown, 5, 6], [*HEAD, *like_it, 5, 6]
    assert _set(branches([one, other], [0, 0], 5)) == {(len(HEAD), frozenset({0, 1}))}
    assert _set(branches([one, [*one[:-1], 8]], [0, 0], 5)) == {(len(HEAD) + 13, frozenset({0, 1}))}
    assert _set(branches([one[:-2], one[:-2]], [0, 0], 5)) == {(len(HEAD), frozenset({0, 1}))}
