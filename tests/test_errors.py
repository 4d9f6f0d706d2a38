"""What a user is told is one line, and nothing in it steers the terminal."""

import pytest

from flashbias_fold.errors import FlashbiasError, InputError


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\nlines\r\n\tand a tab", "two lines and a tab"),
        ("\x1b[31mred\x07", "?[31mred?"),
        ("right to left \u202e override", "right to left ? override"),
        ("alpha \u03b1 stays", "alpha \u03b1 stays"),
    ],
)
def test_a_message_is_one_line_of_printable_text(text, line):
    assert str(FlashbiasError(text)) == line


def test_an_input_error_names_file_job_and_field():
    error = InputError("expected a list", file="in.json", job="one", field="sequences")
    assert str(error) == "in.json: job 'one': sequences: expected a list"
