import json
import warnings
from contextlib import suppress

import numpy as np
import pytest

import hf_calib
from hf_calib import PromptFormat, Question, SelfEvaluationQuestions, load_questions, self_evaluation_questions
from hf_calib.confidence import Asking, LocalModel, ServedModel
from hf_calib.confidence.backend import Generation
from hf_calib.confidence.free_form import predict_free_form
from hf_calib.evaluation.graded_answers import Sampling, prompt_format_of_answers
from hf_calib.hub import dataset_reference
from hf_calib.tasks import FewShotFormat, QuestionError, prompt_format_of
from hf_calib.tasks.free_form import FreeFormQuestion
from tests.confidence.test_served import Server
from tests.support import byte_level_tokenizer, tiny_llama

ASKED = [
    FreeFormQuestion("Capital of France?", ("Paris", "Paris, France"), "geography"),
    FreeFormQuestion("2 + 2?", ("4", "four"), None, "Sums are easy."),
    FreeFormQuestion("Open?"),
]


class Scripted:
    """Gives texts as answers; one that ends in an ellipsis was cut off."""

    def __init__(self, *texts):
        self.texts = texts

    def generate(self, stage, asked, prompt_format, asking, **options):
        self.options = options
        return [[Generation(text, not text.endswith("...")) for text in own] for own in self.texts]

    def score_letters(self, *arguments):
        raise AssertionError("answers are generated, and no letters are asked for")


def graded(*texts, asked=ASKED, **options):
    options.setdefault("n_samples", max(map(len, texts)))
    return self_evaluation_questions(Scripted(*texts), None, asked[: len(texts)], progress=False, **options)


def test_the_answers_become_questions_with_their_grades():
    found = graded([" paris. "], ["five"], ["yes"])
    assert [question.answer for question in found] == [0, 1, None]
    assert found[0] == Question(
        "Capital of France?\nProposed answer: paris.\nIs the proposed answer true?", ("True", "False"), 0, "geography"
    )
    assert found[1].context == "Sums are easy."
    assert [(answer.text, answer.right, answer.row) for answer in found.answers] == [
        ("paris.", True, 0), ("five", False, 1), ("yes", None, 2),
    ]  # fmt: skip
    assert found.balance == {"right": 1, "wrong": 1, "ungraded": 1}
    assert found.describe() == "3 answers to 3 questions: 1 right (50.0% of the graded), 1 wrong, 1 ungraded"


def test_every_sample_counts_and_the_provenance_says_how():
    found = graded(["Paris", "Rome", "Paris"], ["4", "5", ""], matcher="contains", temperature=0.7, seed=3)
    assert [question.answer for question in found] == [0, 1, 0, 0, 1]
    provenance = found.provenance
    assert provenance["model"]["name"] == "Scripted"
    assert provenance["sampling"] == {
        "n_samples": 3, "temperature": 0.7, "max_new_tokens": 32, "seed": 3, "drop_cut_off": False,
    }  # fmt: skip
    assert provenance["matcher"] == "contains"
    assert provenance["counts"]["answers"] == 6
    assert provenance["counts"]["empty"] == 1


def test_the_settings_reach_the_model():
    backend = Scripted(["Paris"], ["4"])
    with pytest.warns(UserWarning, match="answers graded by .* is wrong"):
        self_evaluation_questions(backend, None, ASKED[:2], max_new_tokens=5, progress=False)
    assert backend.options == {
        "n_samples": 1, "temperature": 0.0, "max_new_tokens": 5, "stop": ("\n",), "list_options": False, "seed": 0,
    }  # fmt: skip


def test_thoughts_are_not_graded():
    found = graded(["<think>\nRome?\n</think>\n\nParis"], ["<think>5?</think>4"])
    assert [(answer.text, answer.right) for answer in found.answers] == [("Paris", True), ("4", True)]
    with pytest.warns(UserWarning, match="1 of 2 answers are empty and left out.*raise max_new_tokens"):
        assert len(graded(["Paris"], ["<think>\nFour is..."])) == 1


def test_what_may_be_wrong_is_told():
    with pytest.warns(UserWarning, match="none of 2 answers graded by 'exact' is right"):
        graded(["Rome"], ["5"])
    with pytest.warns(UserWarning, match="1 of 2 answers are empty and left out"):
        assert len(graded(["Paris"], [" "])) == 1
    with pytest.warns(UserWarning, match="1 of 2 answers are longer than 32 tokens and graded as they are"):
        found = graded(["Paris"], ["5 or..."])
    assert (len(found), found.answers[1].ended, found.provenance["counts"]["cut_off"]) == (2, False, 1)
    with pytest.warns(UserWarning, match="1 of 2 answers are longer than 32 tokens and left out"):
        found = graded(["Paris"], ["5 or..."], drop_cut_off=True)
    assert (len(found), found.provenance["counts"]["dropped_cut_off"]) == (1, 1)
    with pytest.warns(UserWarning, match="1 of 2 answers hold nothing that 'numeric' could compare"):
        assert [question.answer for question in graded(["Paris"], ["4"], matcher="numeric")] == [1, 0]
    with pytest.warns(UserWarning, match="1 of 2 answers hold nothing that 'exact' could compare"):
        graded(["Paris"], ["..!"])


def test_what_is_not_graded_is_told():
    with pytest.warns(UserWarning, match="none of the questions comes with a right answer, so no answer is graded"):
        found = graded(["yes"], asked=ASKED[2:])
    assert found.describe() == "1 answer to 1 question: 0 right, 0 wrong, 1 ungraded"
    backend = Scripted(["Paris"])
    backend.texts = [["Paris"], ["5"], None]
    backend.generate = lambda *_, **__: [
        None if own is None else [Generation(text, True) for text in own] for own in backend.texts
    ]
    found = self_evaluation_questions(backend, None, ASKED, progress=False)
    assert found.describe().endswith("; 1 not asked because the prompt exceeds the maximum length")
    # What equals a right answer is right, even if it consists of an article.
    found = graded(["A"], ["5"], asked=[FreeFormQuestion("First letter?", ("A",)), ASKED[1]])
    assert (found.balance["right"], found.provenance["counts"]["not_comparable"]) == (1, 0)


def test_a_matcher_is_not_taken_for_another_of_its_name(tmp_path):
    def contains(answer, other):
        return len(answer) > 4

    contains.__qualname__ = "contains"
    options = {"out": tmp_path / "graded.parquet"}
    found = graded(["Paris"], ["4"], matcher=contains, **options)
    assert found.provenance["matcher"] == f"{__name__}.contains"
    with pytest.raises(ValueError, match=r"the answers were graded by '.*contains'; pass that function"):
        Sampling.from_dict(found.provenance)
    with pytest.raises(ValueError, match="differ in matcher"):
        graded(["Paris"], ["4"], matcher="contains", **options)


def test_bad_input_is_refused():
    with pytest.raises(QuestionError, match="no answer is left; of 2, 2 are empty and 0 were cut off"):
        graded([""], [" "])
    with pytest.raises(QuestionError, match="there is none to answer"):
        self_evaluation_questions(Scripted(), None, [])
    with pytest.raises(TypeError, match="row 1 is a Question"):
        self_evaluation_questions(Scripted(), None, [ASKED[0], Question("a?", ("b", "c"))])
    with pytest.raises(ValueError, match=r"'exakt' is not a way to match answers.*exact"):
        graded(["Paris"], matcher="exakt")
    with pytest.raises(ValueError, match="at 0 all 2 samples of a question are the same"):
        graded(["Paris", "Rome"], temperature=0.0)
    for setting in (
        {"n_samples": 0}, {"n_samples": "2"}, {"n_samples": 1.5}, {"max_new_tokens": 0}, {"temperature": -1.0},
        {"temperature": float("nan")}, {"temperature": "1"}, {"seed": 1.5}, {"seed": None},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{next(iter(setting))}: must be"):
            graded(["Paris"], **setting)

    numbers = {
        "n_samples": np.int64(2),
        "temperature": np.float32(0.5),
        "max_new_tokens": np.int32(7),
        "seed": np.int64(3),
    }
    sampling = graded(["Paris", "Rome"], **numbers).provenance["sampling"]
    assert {name: sampling[name] for name in numbers} == numbers

    def broken(answer, other):
        return {}[answer]

    with pytest.raises(ValueError, match=r"row 1, .*broken raised KeyError: 'five' while comparing .*'five' with '4'"):
        self_evaluation_questions(Scripted(["x"], ["five"]), None, [ASKED[2], ASKED[1]], matcher=broken)
    with pytest.raises(ValueError, match=r"returned 0\.5 while comparing"):
        graded(["Paris"], matcher=lambda answer, other: 0.5)


def test_files_hold_everything_and_are_question_files_too(tmp_path):
    path = tmp_path / "deep" / "graded.parquet"
    found = graded(["Paris"], ["5"], ["yes"])
    found.save(path)
    loaded = SelfEvaluationQuestions.load(path)
    assert list(loaded) == list(found)
    assert loaded.answers == found.answers
    assert loaded.provenance == found.provenance
    assert loaded.prompt_format == PromptFormat()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_questions(path) == list(found)
    with pytest.raises(ValueError, match=r"does not end in \.parquet"):
        found.save(tmp_path / "graded.jsonl")
    with pytest.raises(FileNotFoundError, match="no file"):
        SelfEvaluationQuestions.load(tmp_path / "other.parquet")
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    parquet.write_table(arrow.table({"question": ["a?"]}), tmp_path / "other.parquet")
    with pytest.raises(QuestionError, match="was not written by SelfEvaluationQuestions"):
        SelfEvaluationQuestions.load(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(QuestionError, match=r"text\.parquet"):
        SelfEvaluationQuestions.load(tmp_path / "text.parquet")


def test_provenance_is_the_same_before_and_after_saving(tmp_path):
    found = graded(["Paris"], ["5"], prompt_format=FewShotFormat(examples=SHOTS))
    found.save(tmp_path / "graded.parquet")
    assert SelfEvaluationQuestions.load(tmp_path / "graded.parquet").provenance == found.provenance
    assert found.origin == (
        "answered by Scripted and graded by 'exact'; 2 answers to 2 questions: 1 right (50.0% of the graded), 1 wrong"
    )
    reference = dataset_reference(found, 2)
    assert (reference.name, reference.origin) == ("in-memory-questions", found.origin)


def test_the_format_of_a_file_is_found(tmp_path, monkeypatch):
    found = graded(["Paris"], ["5"], prompt_format=PromptFormat(chat=True, system="Be brief."))
    found.save(tmp_path / "graded.parquet")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "text.parquet").write_text("no table")
    for source in (found, tmp_path / "graded.parquet", "~/graded.parquet"):
        assert prompt_format_of_answers(source) == found.prompt_format
    for source in (None, list(found), "cais/mmlu:all:test", "other.parquet", tmp_path, tmp_path / "text.parquet"):
        assert prompt_format_of_answers(source) is None


def test_damaged_and_other_files_are_refused_by_name(tmp_path):
    import pyarrow.parquet as parquet

    path = tmp_path / "graded.parquet"
    found = graded(["Paris"], ["5"])
    found.save(path)
    whole, table = path.read_bytes(), parquet.read_table(path)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(damaged))
        with suppress(QuestionError):  # some bytes do not matter
            SelfEvaluationQuestions.load(path)
    for name in ("model", "n_questions", "sampling", "matcher", "prompt_format", "counts"):
        kept = {key: value for key, value in found.provenance.items() if key != name}
        metadata = {b"hf_calib.self_evaluation": json.dumps(kept).encode()}
        parquet.write_table(table.replace_schema_metadata(metadata), path)
        with pytest.raises(QuestionError, match=f"provenance: {name} is missing; pass"):
            SelfEvaluationQuestions(found.answers, kept)
        with pytest.raises(QuestionError, match=rf"graded\.parquet: .*provenance: {name} is missing.*again"):
            SelfEvaluationQuestions.load(path)
    for text in (b"{}", b"[1]", b"{"):
        parquet.write_table(table.replace_schema_metadata({b"hf_calib.self_evaluation": text}), path)
        with pytest.raises(QuestionError, match=r"graded\.parquet: the file is damaged, of another kind"):
            prompt_format_of_answers(path)
    metadata = {b"hf_calib.self_evaluation": json.dumps(found.provenance).encode()}
    parquet.write_table(table.drop(["source"]).replace_schema_metadata(metadata), path)
    with pytest.raises(QuestionError, match=r"graded\.parquet: the file is damaged, of another kind"):
        SelfEvaluationQuestions.load(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        SelfEvaluationQuestions.load(tmp_path)


@pytest.mark.filterwarnings("ignore:self-evaluation")
def test_a_stopped_run_goes_on_and_a_finished_one_is_not_repeated(tmp_path, model, tokenizer):
    path = tmp_path / "graded.parquet"
    options = {"max_new_tokens": 3, "progress": False, "batch_size": 1, "out": path}

    class Stopping(LocalModel):
        left = 2

        def run(self, stage, items, asking, work, **own):
            def stopping(batch, prefix):
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
                return work(batch, prefix)

            return super().run(stage, items, asking, stopping, **own)

    backend = Stopping(model, tokenizer)
    with pytest.raises(KeyboardInterrupt):
        self_evaluation_questions(backend, None, ASKED, **options)
    assert not path.exists()
    backend.left = 1  # all that is missing
    found = self_evaluation_questions(backend, None, ASKED, **options)
    assert [answer.row for answer in found.answers] == [0, 1, 2]
    assert [child.name for child in tmp_path.iterdir()] == ["graded.parquet"]
    again = self_evaluation_questions(backend, None, ASKED, **options)
    assert (list(again), again.provenance) == (list(found), found.provenance)
    with pytest.raises(ValueError, match=r"graded\.parquet holds answers that differ in sampling, questions_sha256"):
        self_evaluation_questions(backend, None, ASKED[:2], **options | {"max_new_tokens": 4})
    with pytest.raises(ValueError, match=r"'graded\.csv' does not end in \.parquet"):
        self_evaluation_questions(backend, None, ASKED, out="graded.csv")


def test_a_file_of_questions_is_read(tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text('{"question": "Capital of France?", "answers": ["Paris"]}\n')
    with pytest.warns(UserWarning, match="answers graded by .* is wrong"):
        found = self_evaluation_questions(Scripted(["paris"]), None, path, progress=False)
    assert found.provenance["source"] == found.source == str(path)


SHOTS = (Question("1 + 1?", ("2", "3"), 0), Question("Sky?", ("blue", "red"), 0))


@pytest.mark.filterwarnings("ignore:self-evaluation")
@pytest.mark.parametrize(
    "prompt_format",
    [PromptFormat(), PromptFormat(chat=True), FewShotFormat(examples=SHOTS), prompt_format_of("mmlu")],
    ids=["plain", "chat", "few-shot", "mmlu"],
)
def test_what_is_trained_is_what_is_measured(prompt_format):
    """The questions, asked like any other in their own format, give the P(True) that measuring free-form gives."""
    tokenizer = byte_level_tokenizer(chat=True)
    model = tiny_llama(tokenizer, positions=2048)
    found = self_evaluation_questions(
        model, tokenizer, ASKED, max_new_tokens=5, prompt_format=prompt_format, progress=False
    )
    measured = predict_free_form(
        LocalModel(model, tokenizer), ASKED, prompt_format, Asking(), method="p-true", max_new_tokens=5
    )
    assert tuple(answer.text for answer in found.answers) == measured.texts
    asked = hf_calib.predict(model, tokenizer, found, prompt_format=found.prompt_format)
    np.testing.assert_allclose(asked.probabilities[:, 0], measured.predictions.confidences, atol=1e-6)
    assert len(set(np.round(asked.probabilities[:, 0], 6))) > 1


@pytest.mark.filterwarnings("ignore:self-evaluation")
def test_a_served_model_answers_too():
    server = Server()
    found = self_evaluation_questions(ServedModel(server.url, "tiny"), None, ASKED, max_new_tokens=1, progress=False)
    assert {request[0] for request in server.requests} == {"/v1/completions"}
    assert found.provenance["model"]["model_name"] == "tiny"
    assert found.provenance["model"]["model"] == f"openai:{server.url}"
    assert found.provenance["counts"]["answers"] == 3
