"""Processes that share the work run equally many forwards, however uneven their shares are."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from hf_calib.confidence import Asking, LocalModel, OptionLetters, OptionTexts, SampleConsistency
from hf_calib.tasks import FewShotFormat, PromptFormat
from tests.support import questions, tiny_llama

ASKED = questions(13, choices=(4, 2, 6, 3))
SHOTS = FewShotFormat.choose(questions(6, seed=5), 2)
WAYS = {
    "letters": (OptionLetters(), PromptFormat()),
    "few-shot letters": (OptionLetters(), SHOTS),
    "texts": (OptionTexts(), PromptFormat()),
    "samples": (SampleConsistency(2, max_new_tokens=5), PromptFormat()),
}


def ask_all(tokenizer, **shared):
    """Return what each way gives, and how many forwards this process ran for it."""
    results = {}
    for name, (way, prompt_format) in WAYS.items():
        model, forwards = tiny_llama(tokenizer), []
        model.lm_head.register_forward_pre_hook(lambda module, inputs, forwards=forwards: forwards.append(1))
        source = LocalModel(model, tokenizer, in_step=shared.get("num_processes", 1) > 1)
        source.forward.packs = False  # as in step, where a process alone would need fewer forwards
        asking = Asking(5, hidden_states=True, **shared)
        found = way.predict(source, ASKED, prompt_format, asking)
        states = None if found.hidden_states is None else found.hidden_states.tolist()
        results[name] = (found.probabilities.tolist(), states, len(forwards))
    return results


def main():
    """Take part in a group of processes, and print this one's results."""
    from accelerate import PartialState

    from tests.support import byte_level_tokenizer

    state = PartialState(cpu=True)
    results = ask_all(byte_level_tokenizer(), process_index=state.process_index, num_processes=state.num_processes)
    print(json.dumps(results))
    state.destroy_process_group()


@pytest.fixture(scope="module")
def ranks():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    group = {
        **os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    command = [sys.executable, "-c", "from tests.confidence.test_processes import main; main()"]
    started = [
        subprocess.Popen(command, env={**group, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        return [json.loads(process.communicate(timeout=240)[0].splitlines()[-1]) for process in started]
    finally:
        for process in started:
            process.kill()


@pytest.mark.parametrize("name", WAYS)
def test_forwards_are_equally_many_and_outcomes_those_of_one_process(ranks, tokenizer, name):
    alone = ask_all(tokenizer)[name]
    (first, first_states, n_first), (second, second_states, n_second) = (rank[name] for rank in ranks)
    assert n_first == n_second
    assert n_first < alone[2]  # three batches, of which one process has two
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, alone[0], atol=1e-5)
    assert first_states == second_states
    assert (first_states is not None) == ("letters" in name)
    if first_states is not None:
        np.testing.assert_allclose(first_states, alone[1], atol=1e-5)
