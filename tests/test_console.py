"""What a terminal is given."""

import io
import logging

import pytest

from rife.console import UnfailingStream, print_error, printable, progress_bar, unfailing_console


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\x9b31m", r"\x9b31m"),  # the same as ESC [
        ("gpj.\u202e4pm", r"gpj.\u202e4pm"),
        ("a\u2028b", r"a\u2028b"),
        ("\udcff.mp4", r"\udcff.mp4"),  # a byte that is no text
        ("é 中　文 می‌خواهم 👩‍🚀 \\x1b", "é 中　文 می‌خواهم 👩‍🚀 \\x1b"),
    ],
)
def test_what_a_terminal_would_act_on_is_spelled_out(text, shown):
    assert printable(text) == shown


def test_a_megabyte_is_cut_in_the_middle():
    shown = printable("begin" + "x" * 10**6 + "end")
    assert len(shown) < 2100
    assert shown.startswith("beginx") and shown.endswith("xend")


class Broken(io.StringIO):
    def write(self, _):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("stream", [None, Broken(), "closed"])
def test_writing_to_what_is_gone_is_no_error(stream):
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    unfailing = UnfailingStream(stream)
    print("text", file=unfailing, flush=True)
    assert (unfailing.failure is None) == (stream is None)


def test_a_bar_and_the_log_and_an_error_have_lines_of_their_own(capsys):
    with unfailing_console():
        with progress_bar("in\n.mp4", unit="frame") as report:
            logging.getLogger("rife").warning("first\n\x1b[1m%s", "\udcff")
            report(1, 10, None)
            logging.getLogger("rife").info("second")
            report(9, 10, None)
        with pytest.raises(ValueError), progress_bar("half", unit="frame") as report:
            report(3, 10)
            raise ValueError
        print_error("last")
    lines = capsys.readouterr().err.split("\n")
    for line in (r"first\n\x1b[1m\udcff", "second", "last"):
        assert line in lines
    ends = [line.rpartition("\r")[2] for line in lines if "frame" in line]
    assert any(line.startswith(r"in\n.mp4: 100%") and "9/9" in line for line in ends)
    assert "3/10" in ends[-1]
