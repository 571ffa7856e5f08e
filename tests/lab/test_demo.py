"""What the demo shows and what it hides."""

import logging
import sys

from hf_calib.lab.demo import COLUMNS, LEGEND, quiet


def test_what_libraries_print_log_and_warn_goes_to_the_file(tmp_path, capsys):
    logger = logging.getLogger("a.library")
    handler = logging.StreamHandler()  # holds the standard error of now, as libraries' handlers do
    logger.addHandler(handler)
    try:
        with quiet(tmp_path / "log") as terminal:
            print("{'loss': 0.5}")
            print("a bar or a Python warning", file=sys.stderr)
            logger.warning("a log line")
            print("a step", file=terminal)
        logger.warning("afterwards")
    finally:
        logger.removeHandler(handler)
    shown = capsys.readouterr()
    assert shown.out == "a step\n"
    assert shown.err == "afterwards\n"
    log = (tmp_path / "log").read_text()
    for text in ("{'loss': 0.5}", "a bar or a Python warning", "a log line"):
        assert text in log


def test_table_and_legend_fit_a_terminal():
    assert list(COLUMNS) == ["accuracy", "confidence", "ece", "tce"]
    assert max(map(len, LEGEND.splitlines())) <= 80
