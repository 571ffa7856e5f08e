"""What a measurement records of its run: the first prompt as it was asked."""

import numpy as np
import pytest

import hf_calib
from hf_calib.confidence import Asking, OptionScores
from hf_calib.tasks import PromptFormat
from tests.support import questions

ASKED = questions(4)


class Source:
    """Gives every option the same probability; a source of answers that is not this package's."""

    def score_letters(self, stage, asked, prompt_format, asking):
        return [OptionScores((np.log(0.25),) * 4, (1,) * 4) for _ in asked]


@pytest.mark.parametrize(("method", "listed"), [("letters", True), ("text", False)])
def test_the_first_prompt_is_recorded_as_it_was_asked(model, tokenizer, method, listed):
    measured = hf_calib.measure((model, tokenizer), ASKED, method=method, progress=False)
    assert measured.run["prompt"] == PromptFormat().render(ASKED[0], options=listed)


def test_a_way_with_other_prompts_records_its_own(model, tokenizer):
    measured = hf_calib.measure((model, tokenizer), ASKED, method="stated", progress=False)
    assert ASKED[0].question in measured.run["prompt"]
    assert measured.run["prompt"] != PromptFormat().render(ASKED[0])


def test_a_source_that_notes_nothing_is_recorded_with_the_prompt_that_was_requested():
    measured = hf_calib.measure(Source(), ASKED, prompt=PromptFormat(cue="So:"), progress=False)
    assert measured.run["prompt"] == PromptFormat(cue="So:").render(ASKED[0])


def test_parts_of_a_run_share_the_first_prompt():
    asking = Asking()
    asking.for_part("one_").note(ASKED, PromptFormat(), list_options=False)
    asking.for_part("two_").note(ASKED[1:], PromptFormat())
    assert asking.asked_first == [(ASKED[0], PromptFormat(), False)]
    assert Asking().asked_first == []
