"""Images through the real libmtmd, with models in small: layout, reuse, positions, the same tokens as llama.cpp's own."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run_slm
from gguf_samples import write_tiny_llama
from gguf_vision import (
    IMAGE_TOKENS,
    write_tiny_gemma3,
    write_tiny_qwen2vl,
    write_tiny_qwen2vl_projector,
    write_tiny_siglip,
    write_tiny_smolvlm,
)

from slmchat.conversation.messages import Message, Role
from slmchat.conversation.pictures import Picture
from slmchat.conversation.template import ChatTemplate
from slmchat.engine import llama, native
from slmchat.engine.image_tokens import is_image_token
from slmchat.engine.requests import Image, Limits, Part, Prompt, SessionSettings
from slmchat.engine.results import Chunk, Finish, Prefill
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.session import LlamaSession
from slmchat.engine.vision import Projector
from slmchat.errors import ExitCode, SlmError

pytestmark = pytest.mark.real

GREEDY = SamplerSettings(temperature=0)


def image(shift: int = 0, width: int = 80, height: int = 50) -> Image:
    """Some colours; another `shift` is another picture."""
    rows = range(height)
    pixels = bytes((x * 3 + y * channel * 2 + shift) % 256 for y in rows for x in range(width) for channel in (1, 2, 3))
    return Image.of(width, height, pixels)


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for each kind of model, the projector beside the weights."""
    root = tmp_path_factory.mktemp("seeing")
    for name in ("gemma", "smolvlm", "qwen"):
        (root / name).mkdir()
    write_tiny_gemma3(root / "gemma" / "model.gguf")
    write_tiny_siglip(root / "gemma" / "mmproj-F16.gguf")
    write_tiny_smolvlm(root / "smolvlm" / "model.gguf")
    write_tiny_siglip(root / "smolvlm" / "mmproj-F16.gguf", kind="idefics3")
    write_tiny_qwen2vl(root / "qwen" / "model.gguf")
    write_tiny_qwen2vl_projector(root / "qwen" / "mmproj-F16.gguf")
    return root


def loaded(directory: Path) -> llama.LlamaEngine:
    return llama.load(directory / "model.gguf", projector=Projector(directory / "mmproj-F16.gguf", threads=1))


@pytest.fixture(scope="module")
def gemma(seeing: Path) -> Iterator[llama.LlamaEngine]:
    engine = loaded(seeing / "gemma")
    yield engine
    engine.close()


def asked(question: str, *images: Image) -> Prompt:
    shown = tuple(Part("", image=one) for one in images)
    start, end = Part("<start_of_turn>user\n", True), Part("<end_of_turn>\n<start_of_turn>model\n", True)
    return Prompt((start, *shown, Part(question), end))


def answer(session: LlamaSession, prompt: Prompt, n: int = 12) -> tuple[list[int], Finish, list[Prefill]]:
    tokens: list[int] = []
    steps: list[Prefill] = []
    finish = None
    for event in session.generate(prompt, GREEDY, Limits(n)):
        if isinstance(event, Chunk):
            tokens += event.tokens
        elif isinstance(event, Prefill):
            steps.append(event)
        else:
            finish = event
    assert finish is not None
    return tokens, finish, steps


def fresh(engine: llama.LlamaEngine, prompt: Prompt) -> list[int]:
    session = engine.open_session(SessionSettings(512, 1, 1))
    try:
        return answer(session, prompt)[0]
    finally:
        session.close()


_encoded: list[int] = []


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of the encoder is counted."""
    mtmd = native.multimodal()
    encode = mtmd.mtmd_encode_chunk

    def counted(context: object, chunk: object) -> int:
        _encoded.append(1)
        return int(encode(context, chunk))

    monkeypatch.setattr(mtmd, "mtmd_encode_chunk", counted)


def encodings() -> int:
    """How many image slices were encoded so far."""
    return len(_encoded)


def spelled(engine: llama.LlamaEngine, tokens: list[int]) -> list[str]:
    """Tokens as texts, a run of numbers that stand for an image as how many they are."""
    texts: list[str] = []
    for token in tokens:
        if not is_image_token(token):
            texts.append(engine.vocabulary.text_of(token))
        elif token % 2 == 0:
            texts.append("1")
        else:
            texts[-1] = str(int(texts[-1]) + 1)
    return texts


# Layout


def test_an_image_stands_between_the_model_s_own_marks(gemma: llama.LlamaEngine) -> None:
    tokens = gemma.vocabulary.tokenize(asked("what is this", image()))
    assert spelled(gemma, tokens) == [
        "<s>", "<start_of_turn>", *spelled(gemma, gemma.vocabulary.tokenize(Prompt((Part("user\n"),))))[1:],
        "<start_of_image>", str(IMAGE_TOKENS), "<end_of_image>",
        *spelled(gemma, gemma.vocabulary.tokenize(Prompt((Part("what is this"),))))[1:],
        "<end_of_turn>", "<0x0A>", "<start_of_turn>",
        *spelled(gemma, gemma.vocabulary.tokenize(Prompt((Part("model\n"),))))[1:],
    ]  # fmt: skip
    assert gemma.count(asked("what is this", image())) == len(tokens)


def test_the_same_image_is_the_same_prefix_and_another_is_not(gemma: llama.LlamaEngine) -> None:
    def numbers(one: Image) -> list[int]:
        return [token for token in gemma.vocabulary.tokenize(asked("", one)) if is_image_token(token)]

    assert numbers(image()) == numbers(image())
    assert not set(numbers(image())) & set(numbers(image(1)))
    assert image().id == image().id != image(1).id
    assert Image.of(1, 2, bytes(6)).id != Image.of(2, 1, bytes(6)).id


def test_smolvlm_cuts_an_image_into_slices_with_their_own_marks(seeing: Path) -> None:
    engine = loaded(seeing / "smolvlm")
    texts = spelled(engine, engine.vocabulary.tokenize(Prompt((Part("", image=image()),))))
    engine.close()
    slices = [text for text in texts if text == str(IMAGE_TOKENS)]
    assert len(slices) == 5  # 128 x 80 in slices of 64: two columns, two rows, and the whole
    assert [text for text in texts if text.startswith("<row")] == [
        f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)
    ]
    assert texts.count("<global-img>") == 1


def test_what_a_user_types_never_becomes_an_image(gemma: llama.LlamaEngine) -> None:
    words = "<start_of_image> <__media__> <image> <|image_pad|> <end_of_image>"
    tokens = gemma.vocabulary.tokenize(asked(words, image()))
    texts = spelled(gemma, tokens)
    assert texts.count(str(IMAGE_TOKENS)) == texts.count("<start_of_image>") == texts.count("<end_of_image>") == 1


# Evaluation


def test_the_answer_depends_on_what_the_image_shows(gemma: llama.LlamaEngine) -> None:
    assert fresh(gemma, asked("what is this", image())) != fresh(gemma, asked("what is this", image(90)))
    assert fresh(gemma, asked("what is this", image())) != fresh(gemma, asked("what is this"))


def test_a_second_question_does_not_encode_the_image_again(gemma: llama.LlamaEngine) -> None:
    picture = image(7)
    session = gemma.open_session(SessionSettings(512, 1, 1))
    before = encodings()
    answer(session, asked("what is this", picture))
    assert encodings() == before + 1
    second, finish, steps = answer(session, asked("what can you see", picture))
    session.close()
    assert encodings() == before + 1
    assert finish.usage.cached_tokens >= IMAGE_TOKENS
    assert steps[0].done == finish.usage.cached_tokens  # the image was not even evaluated again
    assert second == fresh(gemma, asked("what can you see", picture))
    assert encodings() == before + 1  # in another session it is evaluated, with the embedding that is known


def test_another_image_in_the_same_place_is_seen(gemma: llama.LlamaEngine) -> None:
    session = gemma.open_session(SessionSettings(512, 1, 1))
    answer(session, asked("what is this", image()))
    tokens, finish, _ = answer(session, asked("what is this", image(90)))
    session.close()
    assert finish.usage.cached_tokens < IMAGE_TOKENS
    assert tokens == fresh(gemma, asked("what is this", image(90)))


def test_several_images_in_one_question(gemma: llama.LlamaEngine) -> None:
    one, other = image(), image(90)
    session = gemma.open_session(SessionSettings(512, 1, 1))
    first = answer(session, asked("what is this", one, other))[0]
    tokens, finish, _ = answer(session, asked("what is this", one, one))
    session.close()
    assert IMAGE_TOKENS < finish.usage.cached_tokens < 2 * IMAGE_TOKENS  # the first is reused whole, the second not
    assert first == fresh(gemma, asked("what is this", one, other))
    assert tokens == fresh(gemma, asked("what is this", one, one))
    assert first != fresh(gemma, asked("what is this", other, one))


@pytest.mark.parametrize("kind", ["qwen", "smolvlm"])
def test_going_on_after_an_image_is_the_same_as_beginning_anew(seeing: Path, kind: str) -> None:
    """Qwen's images take fewer positions than tokens: what follows must stand where it stood."""
    engine = loaded(seeing / kind)
    session = engine.open_session(SessionSettings(512, 1, 1))

    def prompt(question: str) -> Prompt:
        return Prompt((Part("user "), Part("", image=image()), Part(question), Part(" answer:", True)))

    answer(session, prompt(" what is this"))
    for question in (" what is there", " how many people"):
        tokens, finish, _ = answer(session, prompt(question))
        assert finish.usage.cached_tokens > IMAGE_TOKENS
        assert tokens == fresh(engine, prompt(question))
    session.close()
    engine.close()


@pytest.mark.parametrize(("kind", "is_non_causal"), [("gemma", True), ("smolvlm", False), ("qwen", False)])
def test_only_gemma_s_image_tokens_see_each_other(
    seeing: Path, kind: str, is_non_causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = loaded(seeing / kind)
    api = native.bindings()

    def logits() -> list[float]:
        session = engine.open_session(SessionSettings(512, 1, 1))
        answer(session, asked("what is this", image()), n=1)
        row = api.llama_get_logits_ith(session._context.handle, -1)
        values = row[: engine.vocabulary.n_tokens]
        session.close()
        return list(values)

    before = logits()
    assert logits() == before
    monkeypatch.setattr(api, "llama_set_causal_attn", lambda _context, _is_causal: None)
    assert (logits() != before) == is_non_causal
    engine.close()


def test_a_shared_prefix_never_ends_inside_an_image(gemma: llama.LlamaEngine) -> None:
    session = gemma.open_session(SessionSettings(512, 1, 1))
    prompt = asked("what is this", image())
    answer(session, prompt)
    tokens = gemma.vocabulary.tokenize(prompt)
    begin = next(place for place, token in enumerate(tokens) if is_image_token(token))
    like_it = [*tokens[: begin + 5], *(number ^ 2 for number in tokens[begin + 5 : begin + IMAGE_TOKENS]), 5, 6]
    assert session._context.reuse(like_it) == begin  # another image whose first numbers happen to be the same
    session.close()


def test_a_prompt_that_ends_in_an_image(gemma: llama.LlamaEngine) -> None:
    prompt = Prompt((Part("what is this"), Part("", image=image())))
    session = gemma.open_session(SessionSettings(512, 1, 1))
    first = answer(session, prompt)[0]
    again, finish, _ = answer(session, prompt)
    session.close()
    assert first == again
    assert finish.usage.prompt_tokens > finish.usage.cached_tokens


def test_cancelled_before_the_image_the_session_stays_right(gemma: llama.LlamaEngine) -> None:
    session = gemma.open_session(SessionSettings(512, 1, 1))
    events = session.generate(asked("what is this", image(33)), GREEDY, Limits(4))
    next(events)
    session.cancel()
    (*_, finish) = events
    assert isinstance(finish, Finish) and finish.reason == "interrupted"
    tokens = answer(session, asked("what is this", image(33)))[0]
    session.close()
    assert tokens == fresh(gemma, asked("what is this", image(33)))


def test_an_encoding_can_be_cancelled(gemma: llama.LlamaEngine) -> None:
    vision = gemma.vocabulary.vision
    assert vision is not None
    (first, *_) = (token for token in vision.tokens_of(image(55)) if is_image_token(token))
    looks: list[bool] = []

    def is_cancelled() -> bool:
        looks.append(True)
        return True

    assert vision.see(first, 0, is_cancelled) is None
    assert len(looks) >= 2  # inside the computation, and after it
    assert vision.see(first, 0, lambda: False) is not None


def test_images_beyond_the_window_are_refused_before_they_are_encoded(gemma: llama.LlamaEngine) -> None:
    session = gemma.open_session(SessionSettings(IMAGE_TOKENS, 1, 1))
    before = encodings()
    with pytest.raises(SlmError) as caught:
        list(session.generate(asked("what", image(44)), GREEDY, Limits(1)))
    session.close()
    assert caught.value.exit_code is ExitCode.CONTEXT
    assert encodings() == before


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((kind, size) for kind in ("gemma", "smolvlm", "qwen") for size in ((1, 1), (1, 100), (100, 1), (20, 2000))),
        *(("gemma", (2048, 2048)), ("smolvlm", (2048, 2048)), ("qwen", (1024, 1024))),  # qwen looks at every pixel
    ],
)
def test_images_of_odd_sizes_do_not_end_the_process(seeing: Path, kind: str, size: tuple[int, int]) -> None:
    engine = loaded(seeing / kind)
    vision = engine.vocabulary.vision
    assert vision is not None
    width, height = size
    tokens = vision.tokens_of(Image.of(width, height, bytes(3 * width * height)))
    seen = vision.see(next(filter(is_image_token, tokens)), 0, lambda: False)
    assert seen is not None
    assert len(seen.embedding) == seen.n_tokens * 64
    engine.close()


# What is refused


def test_an_image_that_the_library_refuses_is_a_sentence(seeing: Path) -> None:
    engine = loaded(seeing / "smolvlm")
    session = engine.open_session(SessionSettings(512, 1, 1))
    line = Prompt((Part("", image=Image.of(3, 2000, bytes(18_000))), Part("what")))
    with pytest.raises(
        SlmError, match="cannot take in an image of 3 x 2000 pixels: one side is more than 200 times"
    ) as caught:
        answer(session, line)
    assert caught.value.exit_code is ExitCode.DAMAGED
    assert answer(session, Prompt((Part("what is this"),)))[0]  # the session is as good as before
    session.close()
    engine.close()


def test_a_model_without_a_projector_refuses_an_image(seeing: Path) -> None:
    engine = llama.load(seeing / "gemma" / "model.gguf")
    with pytest.raises(SlmError, match="does not see images"):
        engine.count(asked("what", image()))
    engine.close()


def test_a_projector_of_another_model_is_refused(seeing: Path, tmp_path: Path) -> None:
    other = write_tiny_siglip(tmp_path / "mmproj.gguf", embedding=32)
    engine = llama.load(seeing / "gemma" / "model.gguf", projector=Projector(other, 1))
    with pytest.raises(SlmError, match=r"n_embd = 64.*n_embd = 32") as caught:
        engine.count(asked("what", image()))
    engine.close()
    assert caught.value.exit_code is ExitCode.DAMAGED


# The same as llama.cpp's own


@pytest.mark.parametrize("kind", ["gemma", "qwen"])
def test_the_same_greedy_text_as_llama_mtmd_cli(seeing: Path, kind: str, tmp_path: Path) -> None:
    tool = shutil.which("llama-mtmd-cli")
    if tool is None:
        pytest.skip("llama-mtmd-cli is not on the PATH")
    picture = tmp_path / "picture.png"
    picture.write_bytes(Picture.of("picture", image()).png())
    model, projector = seeing / kind / "model.gguf", seeing / kind / "mmproj-F16.gguf"
    command = [tool, "-m", model, "--mmproj", projector, "--image", picture, "-p", "what is this"]
    done = subprocess.run(
        [*command, "--jinja", "--temp", "0", "-n", "12", "-t", "1", "-c", "512"],
        capture_output=True,
        timeout=300,
        check=True,
    )
    ours = run_slm(
        "run",
        "-m",
        model,
        "-f",
        picture,
        "--temp",
        "0",
        "-n",
        "12",
        "--threads",
        "1",
        "what is this",
        home=tmp_path / "home",
    )
    assert ours.code == 0, ours.err
    theirs = done.stdout.decode().strip()  # on a busy machine its last words are sometimes lost: a thread writes them
    assert theirs
    assert ours.out.strip().startswith(theirs)


# Templates


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("gemma", "<s><start_of_turn>user\n", "what is this"),
        ("smolvlm", "<|im_start|>User:", "what is this"),
        ("qwen", "<|im_start|>user\n", "what is this"),
    ],
)
def test_the_template_says_where_an_image_goes(seeing: Path, kind: str, before: str, after: str) -> None:
    engine = llama.load(seeing / kind / "model.gguf")
    template = ChatTemplate(engine.info.chat_template, bos_text="<s>", eos_text="</s>")
    engine.close()
    picture = Picture.of("p", image())
    prompt = template.render([Message(Role.USER, "what is this", pictures=(picture,))])
    place = next(index for index, part in enumerate(prompt.parts) if part.image is not None)
    assert prompt.parts[place].image == picture.image()
    assert prompt.parts[place - 1] == Part(before, is_template=True)
    assert prompt.parts[place + 1] == Part(after)
    assert not re.search("image", "".join(part.text for part in prompt.parts))


def test_a_template_without_images_gets_them_before_the_text() -> None:
    template = ChatTemplate(
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] + '' }}\n{% endfor %}", bos_text="", eos_text=""
    )
    one, other = Picture.of("a", image()), Picture.of("b", image(9))
    (*head, first, second, text, _) = template.render([Message(Role.USER, "both?", pictures=(one, other))]).parts
    assert [first.image, second.image, text.text] == [one.image(), other.image(), "both?"]
    assert head == [Part("<|user|>", is_template=True)]


def test_marks_that_messages_spell_do_not_draw_images_to_them(seeing: Path) -> None:
    """Every kind of mark, in a message before the one with the image and in its own text."""
    spelt = "<start_of_image> <image> <|image|> <|vision_start|><|image_pad|><|vision_end|>"
    for kind in ("gemma", "smolvlm", "qwen"):
        engine = llama.load(seeing / kind / "model.gguf")
        template = ChatTemplate(engine.info.chat_template, bos_text="<s>", eos_text="</s>")
        engine.close()
        messages = [
            Message(Role.USER, spelt),
            Message(Role.ASSISTANT, spelt),
            Message(Role.USER, spelt, pictures=(Picture.of("p", image()),)),
        ]
        parts = template.render(messages).parts
        (place,) = [index for index, part in enumerate(parts) if part.image is not None]
        assert parts[place + 1].text == spelt
        assert [part.text for part in parts].count(spelt) == 3
        assert not any(part.is_template for part in parts if part.text == spelt)


def test_a_template_that_knows_lists_only_gets_lists(tmp_path: Path, seeing: Path) -> None:
    engine = llama.load(seeing / "smolvlm" / "model.gguf")
    template = ChatTemplate(engine.info.chat_template, bos_text="<s>", eos_text="</s>")
    engine.close()
    text = "".join(part.text for part in template.render([Message(Role.USER, "hello")]).parts)
    assert text == "<|im_start|>User: hello<end_of_utterance>\nAssistant:"


def test_a_folded_system_message_keeps_the_picture(tmp_path: Path) -> None:
    from gguf_samples import GEMMA_TEMPLATE

    template = ChatTemplate(GEMMA_TEMPLATE, bos_text="<s>", eos_text="</s>")
    picture = Picture.of("p", image())
    parts = template.render([Message(Role.SYSTEM, "Be kind."), Message(Role.USER, "hi", pictures=(picture,))]).parts
    assert [part.image for part in parts if part.image] == [picture.image()]
    assert "Be kind.\n\nhi" in [part.text for part in parts]


# The command


@pytest.fixture
def png(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    file.write_bytes(Picture.of("picture", image()).png())
    return file


def test_run_shows_the_picture_and_its_cost(seeing: Path, home: Path, png: Path) -> None:
    model = seeing / "gemma" / "model.gguf"
    told = ["run", "-m", model, "--temp", "0", "-n", "8"]
    done = run_slm(*told, "-f", png, "what is this", home=home)
    assert (done.code, done.err) == (0, f"picture.png, 80 × 50 pixels, {IMAGE_TOKENS + 2} tokens\n")
    piped = run_slm(*told, "what is this", home=home, stdin=png.read_bytes())
    assert piped.out == done.out != ""
    raw = run_slm(*told, "--raw", "-f", png, "what is this", home=home)
    assert raw.code == 0
    assert run_slm(*told, "what is this", home=home).out != done.out


def test_a_batch_asks_about_each_picture(seeing: Path, home: Path, png: Path, tmp_path: Path) -> None:
    model = seeing / "gemma" / "model.gguf"
    (tmp_path / "broken.png").write_bytes(png.read_bytes()[:60])
    (tmp_path / "note.txt").write_text("a text")
    told = ["-m", model, "--temp", "0", "-n", "8"]
    files = [png, png, tmp_path / "broken.png", tmp_path / "note.txt"]
    done = run_slm("batch", *told, *(flag for file in files for flag in ("-f", file)), "what is this", home=home)
    assert done.code == ExitCode.ROWS_FAILED, done.err
    first, again, broken, text = map(json.loads, done.out.splitlines())
    alone = run_slm("run", *told, "-f", png, "what is this", home=home).out
    assert first["completion"] == again["completion"] == alone.rstrip("\n") != ""
    assert (first["id"], first["input"]) == (str(png), "picture.png, 80 × 50 pixels")
    assert again["usage"]["cached_tokens"] > IMAGE_TOKENS  # the picture is not encoded again
    assert broken["completion"] is None and "broken.png" in broken["error"]
    assert text["error"] is None and text["input"] == "a text"


def test_what_a_batch_cannot_ask_about_pictures(seeing: Path, home: Path, png: Path) -> None:
    model = seeing / "gemma" / "model.gguf"
    assert run_slm("batch", "-m", model, "-f", png, home=home).code == 2


def test_run_on_a_model_that_cannot_see_says_so(home: Path, png: Path, tmp_path: Path) -> None:
    blind = write_tiny_llama(tmp_path / "blind.gguf", chat_template="{{ messages[0].content }}")
    done = run_slm("run", "-m", blind, "-f", png, "what is this", home=home)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"slm: {blind} does not see pictures.\n"
        "hint: its projector is looked for beside it (mmproj*.gguf), or named: --mmproj PATH\n"
    )


def test_mmproj_names_a_projector(seeing: Path, home: Path, png: Path, tmp_path: Path) -> None:
    model = shutil.copy(seeing / "gemma" / "model.gguf", tmp_path / "alone.gguf")
    assert run_slm("run", "-m", model, "-f", png, "what", home=home).code == 2
    named = run_slm(
        "run", "-m", model, "--mmproj", seeing / "gemma" / "mmproj-F16.gguf", "-f", png, "-n", "2", "what", home=home
    )
    assert named.code == 0, named.err
    wrong = run_slm("run", "-m", model, "--mmproj", model, "-f", png, "what", home=home)
    assert wrong.code == 6
    assert "is not a projector for images" in wrong.err


def test_a_picture_alone_is_no_question(seeing: Path, home: Path, png: Path) -> None:
    done = run_slm("run", "-m", seeing / "gemma" / "model.gguf", "-f", png, home=home)
    assert done.code == 2
    assert "the prompt is empty" in done.err
