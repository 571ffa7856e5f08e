import json
import re
import warnings

import pytest

from hf_calib import Question, SynthesizedQuestions, load_questions, synthesize_questions
from hf_calib.confidence import LocalModel, ServedModel, ServerError
from hf_calib.confidence.backend import Generation
from hf_calib.evaluation.example_questions import EXAMPLES, SUBJECTS
from hf_calib.evaluation.synthesis import REASONS, Writing
from hf_calib.hub import dataset_reference
from hf_calib.tasks import PromptFormat, QuestionError
from tests.confidence.test_served import Server
from tests.support import byte_level_tokenizer, tiny_llama


def text(number, options="red green blue black"):
    lines = [f"{letter}. {option}" for letter, option in zip("ABCDEFG", options.split(), strict=False)]
    return "\n".join([f" What colour is thing number {number}?", *lines, ""])


class Scripted:
    """Writes what `write` returns for a text's number; None was a prompt that is too long, an ellipsis is cut off."""

    model = None

    def __init__(self, write=text):
        self.write, self.calls, self.prompts, self.n = write, [], [], 0

    def generate(self, stage, asked, prompt_format, asking, **options):
        self.calls.append((stage, options))
        self.prompts += [prompt_format.render(question, options=False) for question in asked]
        texts = [self.write(number) for number in range(self.n, self.n + len(asked))]
        self.n += len(asked)
        return [None if own is None else [Generation(own, not own.endswith("..."))] for own in texts]

    def score_letters(self, *arguments):
        raise AssertionError("questions are generated, and no letters are asked for")


def test_the_texts_become_questions_without_answers():
    found = synthesize_questions(Scripted(), None, 3, progress=False)
    assert len(found) == 3
    assert [question.question for question in found] == [f"What colour is thing number {n}?" for n in range(3)]
    assert {question.choices for question in found} == {("red", "green", "blue", "black")}
    assert {question.answer for question in found} == {None}
    assert {question.subject for question in found} <= set(SUBJECTS)
    assert found.describe() == "3 questions from 6 texts; 3 were not needed"
    assert found.provenance["model"]["name"] == "Scripted"
    assert found.provenance["seed"] == 0


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (" What is red?\nA. a rose\nB. grass\n", ("What is red?", ("a rose", "grass"))),
        (" What is red?\nA) a rose\nB) grass", ("What is red?", ("a rose", "grass"))),
        # In words that a tokenizer keeps without their lines.
        (" What is red ? A. a rose B. green grass ", ("What is red ?", ("a rose", "green grass"))),
        # Initials are no options where these are on lines of their own.
        (" Who was J. K. Rowling?\nA. a writer\nB. a king", ("Who was J. K. Rowling?", ("a writer", "a king"))),
        (" One line.\nAnd another one?\nA. yes\nB. no", ("One line.\nAnd another one?", ("yes", "no"))),
        (" There is no option here.", "unreadable"),
        ("", "unreadable"),
        ("\nA. a rose\nB. grass", "unreadable"),
        (" What is red?\nA. a rose\n", "unreadable"),
        (" What is red?\nA. a rose\nC. grass", "unreadable"),
        (" What is red?\nB. a rose\nA. grass", "unreadable"),
        (" What is red?\nA.\nB. grass", "unreadable"),
        (" What is red?\nA. a rose\nB. grass\nThe answer is A", "unreadable"),
        (" What is red?\nA. a rose\nB. grass\nC. sky\nD. sea\nE. ink\nF. sand", "number_of_options"),
        (" What is red?\nA. a rose\nB. The rose.", "identical_options"),
        (" What is red?\nA. +\nB. -", ("What is red?", ("+", "-"))),
        (" What is 2 - 7?\nA. -5\nB. 5", ("What is 2 - 7?", ("-5", "5"))),
        (" Which has classes?\nA. C\nB. C++", ("Which has classes?", ("C", "C++"))),
        (" Red?\nA. a rose\nB. grass", "length"),
        (f" What is red?\nA. a rose\nB. {'grass ' * 40}", "length"),
    ],
)
def test_only_questions_are_read(written, expected):
    read = Writing(1).read(written, "colors")
    assert read == (expected if isinstance(expected, str) else Question(*expected, None, "colors"))


def test_without_examples_any_number_of_options_is_right():
    assert isinstance(Writing(1, examples=()).read(text(1, "a b c d e f"), None), Question)


def test_texts_may_be_as_short_and_their_options_as_long_as_those_of_the_examples():
    short = Writing(1, examples=(Question("6 × 7 = ?", ("42", "13")),))
    assert isinstance(short.read(" 6 × 9 = ?\nA. 54\nB. 45", None), Question)
    assert short.read(" 6?\nA. 54\nB. 45", None) == "length"
    long = Writing(1, examples=(Question("Which of these texts is true?", ("grass " * 50, "no")),))
    assert isinstance(long.read(f" Which of these is true?\nA. {'sky ' * 60}\nB. no", None), Question)


def test_what_is_not_used_is_counted_by_reason():
    lines = EXAMPLES[1].choices
    copied = f" {EXAMPLES[1].question}\n" + "\n".join(f"{a}. {b}" for a, b in zip("DCBA", lines, strict=True))
    copied = "\n".join([copied.split("\n")[0], *sorted(copied.split("\n")[1:])])
    texts = {
        0: None, 1: "What is cut off ...", 2: "nothing", 3: text(3, "a b c d e f g"), 4: text(4, "a a"),
        5: text(5, "a " + 300 * "b"), 6: copied, 7: text(9), 8: text(9), 9: text(9, "green red black blue"),
    }  # fmt: skip
    found = synthesize_questions(Scripted(lambda n: texts.get(n, text(n))), None, 6, progress=False)
    counts = found.provenance["counts"]
    once = dict.fromkeys(REASONS, 1)
    assert counts == {"questions": 6, "texts": 18, **once, "repeated": 3, "not_needed": 3}
    assert counts["texts"] == sum(counts[name] for name in (*REASONS, "not_needed", "questions"))
    assert len({question.question for question in found}) == 6
    assert found.describe().startswith("6 questions from 18 texts; 1 had prompts that are too long for the model, 1 ")


def test_the_prompts_show_solved_examples_and_ask_for_a_subject():
    backend = Scripted()
    synthesize_questions(backend, None, 100, progress=False)
    assert len(backend.prompts) == 200
    solved = {f"Subject: {e.subject}\n{PromptFormat().render(e)} {e.letters[e.answer]}" for e in EXAMPLES}
    endings = set()
    for prompt in backend.prompts:
        *shown, ending = prompt.split("\n\n")
        assert len(set(shown)) == 4
        assert set(shown) <= solved
        endings.add(ending)
    assert endings <= {f"Subject: {subject}\nQuestion:" for subject in SUBJECTS}
    assert len(endings) > 30
    beginnings = [prompt.rpartition("\n\n")[0] for prompt in backend.prompts]
    assert len(set(beginnings[:64])) == 1  # computed once
    assert len(set(beginnings)) == 4
    _, options = backend.calls[0]
    assert options.pop("seed") >= 0
    assert options == {
        "temperature": 0.8, "max_new_tokens": 128, "stop": ("Answer:", "\n\n"), "list_options": False,
    }  # fmt: skip


def test_the_seed_decides_the_prompts_and_the_samples():
    def asked(seed):
        backend = Scripted()
        synthesize_questions(backend, None, 200, seed=seed, progress=False)
        return backend.prompts, [options["seed"] for _, options in backend.calls]

    assert asked(1) == asked(1)
    assert asked(1)[0] != asked(2)[0]
    assert asked(1)[1] != asked(2)[1]
    many = Scripted(lambda n: text(n) if n % 2 else "nothing")
    synthesize_questions(many, None, 200, progress=False)
    assert len({options["seed"] for _, options in many.calls}) == len(many.calls) > 1
    assert len({stage for stage, _ in many.calls}) == len(many.calls)


@pytest.mark.parametrize(
    ("options", "prompts"),
    [
        ({"examples": ()}, {"Question:"}),
        ({"examples": (), "subjects": ("birds",)}, {"Subject: birds\nQuestion:"}),
        (
            {"examples": [Question("Who sings?", ("a lark", "a cat"), 0)]},
            {"Question: Who sings?\nA. a lark\nB. a cat\nAnswer: A\n\nQuestion:"},
        ),
        (
            {"examples": [Question("Who sings?", ("a lark", "a cat"), None, "birds")]},
            {"Subject: birds\nQuestion: Who sings?\nA. a lark\nB. a cat\nAnswer:\n\nSubject: birds\nQuestion:"},
        ),
        ({"n_shots": 0, "subjects": ("birds",)}, {"Subject: birds\nQuestion:"}),
    ],
)
def test_examples_and_subjects_of_ones_own(options, prompts):
    backend = Scripted(lambda n: text(n, "a b"))
    synthesize_questions(backend, None, 2, progress=False, **options)
    assert set(backend.prompts) == prompts


def test_a_model_that_cannot_write_questions_is_an_error_after_few_texts():
    tokenizer = byte_level_tokenizer()
    source = LocalModel(tiny_llama(tokenizer, positions=2048), tokenizer)
    with pytest.raises(QuestionError, match=r"fewer than 5% of the texts that .* writes are usable as questions: 0 q"):
        synthesize_questions(source, None, 4, max_new_tokens=8, n_shots=1, progress=False)
    backend = Scripted(lambda n: text(0))
    with pytest.raises(QuestionError, match=r"1 questions from (\d+) texts; \d+ repeated another question"):
        synthesize_questions(backend, None, 1000, progress=False)
    assert len(backend.prompts) == 256
    rare = Scripted(lambda n: text(n) if n % 25 == 0 else "nothing")
    with pytest.raises(QuestionError, match="had no lettered options in order"):
        synthesize_questions(rare, None, 10, progress=False)


def test_the_model_writes_what_it_would_alone_whatever_the_batch_and_again_from_the_seed():
    tokenizer = byte_level_tokenizer()
    model = tiny_llama(tokenizer, positions=2048)
    written = []
    generate = LocalModel.generate

    def recorded(source, *arguments, **options):
        samples = generate(source, *arguments, **options)
        written.append([own[0].text for own in samples])
        return [[Generation(text(number), True)] for number in range(len(samples))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalModel, "generate", recorded)
        for batch_size, seed in ((16, 5), (3, 5), (16, 6)):
            synthesize_questions(
                model, tokenizer, 8, seed=seed, batch_size=batch_size, max_new_tokens=6, n_shots=1, progress=False
            )
    assert written[0] == written[1]
    assert written[0] != written[2]
    assert len(set(written[0])) > 8


def test_prompts_that_are_too_long_for_a_model_are_an_error():
    tokenizer = byte_level_tokenizer()
    with pytest.raises(
        QuestionError, match=r"^examples: 16 of 16 prompts .* longer than 64 tokens .*; show fewer examples \(n_shots"
    ):
        synthesize_questions(tiny_llama(tokenizer, positions=64), tokenizer, 8, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n is the number"),
        ({"temperature": 0.0}, "temperature: at 0"),
        ({"n_shots": -1}, "n_shots must be"),
        ({"max_new_tokens": 0}, "max_new_tokens at least 1"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        synthesize_questions(Scripted(), None, **{"n": 2, "progress": False, **options})


def test_a_file_has_the_questions_and_another_one_their_provenance(tmp_path):
    found = synthesize_questions(Scripted(), None, 3, progress=False)
    path = tmp_path / "new" / "questions.jsonl"
    found.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_questions(path) == found
    assert json.loads(path.read_text().splitlines()[0]).keys() == {"question", "choices", "subject"}
    again = SynthesizedQuestions.load(path)
    assert again == found
    assert again.provenance == found.provenance
    (tmp_path / "new" / "questions.provenance.json").unlink()
    with pytest.raises(QuestionError, match=r"questions\.provenance\.json with its provenance is missing"):
        SynthesizedQuestions.load(path)
    with pytest.raises(ValueError, match=r"does not end in \.jsonl"):
        found.save(tmp_path / "questions.csv")


def test_after_a_model_that_cannot_write_questions_another_one_may(tmp_path):
    options = {"out": tmp_path / "questions.jsonl", "progress": False}
    tokenizer = byte_level_tokenizer()
    source = LocalModel(tiny_llama(tokenizer, positions=2048), tokenizer)
    with pytest.raises(QuestionError, match="Use a more capable model"):
        synthesize_questions(source, None, 10, max_new_tokens=8, n_shots=1, **options)
    assert list(tmp_path.iterdir()) == []
    assert len(synthesize_questions(Scripted(), None, 10, max_new_tokens=64, **options)) == 10


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    path, aside = tmp_path / "questions.jsonl", tmp_path / "questions.provenance.json"
    synthesize_questions(Scripted(), None, 3, out=path, progress=False)
    whole, provenance = path.read_text(), aside.read_text()
    for damaged in ("".join(whole.splitlines(keepends=True)[:2]), whole[:-9]):
        path.write_text(damaged)
        with pytest.raises(QuestionError, match=r"questions\.jsonl: .*remove it to have (them|the questions) written"):
            synthesize_questions(Scripted(), None, 3, out=path, progress=False)
    path.write_text(whole)
    for damaged in ("{", "{}", "[]", provenance.replace('"counts"', '"count"')):
        aside.write_text(damaged)
        with pytest.raises(QuestionError, match=r"questions\.provenance\.json is damaged; remove"):
            SynthesizedQuestions.load(path)
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl"):
        SynthesizedQuestions.load(tmp_path / "gone.jsonl")


def test_a_finished_run_is_read_and_one_with_other_settings_is_an_error(tmp_path):
    path = tmp_path / "questions.jsonl"
    first = synthesize_questions(Scripted(), None, 3, out=path, progress=False)
    assert not (tmp_path / "questions.progress").exists()
    backend = Scripted()
    again = synthesize_questions(backend, None, 3, out=path, progress=False)
    assert again == first
    assert again.provenance == first.provenance
    assert backend.prompts == []
    with pytest.raises(ValueError, match=r"questions\.jsonl holds questions of a run that differs in n, seed; remove"):
        synthesize_questions(Scripted(), None, 4, seed=1, out=path, progress=False)


def test_a_served_model_writes_them_and_a_stopped_run_continues(tmp_path):
    class Writer(Server):
        def answer(self, path, body):
            number = len(self.requests)
            return {"choices": [{"text": text(number) if number % 3 == 0 else "nothing", "finish_reason": "stop"}]}

    server = Writer()
    server.faults = [None] * 20 + [400]  # in the second round
    model = ServedModel(server.url, "tiny", concurrency=1, retries=0)
    options = {"out": tmp_path / "questions.jsonl", "progress": False}
    with pytest.raises(ServerError, match="400"):
        synthesize_questions(model, None, 10, **options)
    asked = [body["prompt"] for _, body, _ in server.requests]
    assert len(synthesize_questions(model, None, 10, **options)) == 10
    assert {path for path, _, _ in server.requests} == {"/v1/completions"}
    again = [body["prompt"] for _, body, _ in server.requests[len(asked) :]]
    assert again[0] == asked[20]
    assert not set(again) & set(asked[:20])
    assert not (tmp_path / "questions.progress").exists()


def test_a_card_names_their_writer_and_the_counts():
    found = synthesize_questions(Scripted(), None, 3, progress=False)
    reference = dataset_reference(found, 3)
    assert (reference.name, reference.size) == ("self-made-questions", 3)
    assert reference.origin == "written by Scripted; 3 questions from 6 texts; 3 were not needed"


def test_progress_is_shown_where_it_is_asked_for(capsys):
    synthesize_questions(Scripted(), None, 3)
    assert re.search(r"writing questions: 100%.* 3/3", capsys.readouterr().err)
    synthesize_questions(Scripted(), None, 3, progress=False)
    assert capsys.readouterr().err == ""


def test_the_examples_are_sound():
    assert len({example.subject for example in EXAMPLES}) == len(EXAMPLES)
    assert len(set(SUBJECTS)) == len(SUBJECTS)
    assert {len(example.choices) for example in EXAMPLES} == {2, 3, 4, 5}
    for example in EXAMPLES:
        assert example.answer is not None
        assert not example.has_identical_choices
        shown = PromptFormat().render(example).removeprefix("Question:").removesuffix("Answer:")
        assert isinstance(Writing(1).read(shown, example.subject), Question)


def test_examples_are_read_from_rows_and_files(tmp_path):
    row = {"question": "Who sings?", "choices": ["a lark", "a cat"], "answer": 0}
    (tmp_path / "examples.jsonl").write_text(json.dumps(row), encoding="utf-8")
    for examples in ([row], str(tmp_path / "examples.jsonl"), tmp_path / "examples.jsonl"):
        writer = Scripted(lambda number: text(number, "red green"))
        synthesize_questions(writer, None, 1, examples=examples, progress=False)
        assert writer.prompts[0].startswith("Question: Who sings?\nA. a lark\nB. a cat\nAnswer: A")
    with pytest.raises(QuestionError, match="no layout of multiple-choice questions fits the columns 'asked'"):
        synthesize_questions(Scripted(), None, 1, examples=[{"asked": "Who?"}], progress=False)


def test_one_subject_is_not_read_as_its_letters():
    with pytest.raises(ValueError, match=r"^subjects: give a list of texts, such as \['birds'\]"):
        synthesize_questions(Scripted(), None, 1, subjects="birds", progress=False)
