"""Numbers and strangers' text in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.stats import Interval
from reports.wording import clip, number, percent, printable, span


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 %"),
        (0.0001, "0.1 %"),
        (0.004, "0.4 %"),
        (0.5, "50 %"),
        (0.985, "98 %"),
        (0.994, "99.4 %"),
        (0.9999, "99.9 %"),
        (1, "100 %"),
    ],
)
def test_a_percentage_claims_all_or_nothing_only_where_it_is_so(value: float, text: str) -> None:
    assert percent(value) == text.replace(" ", "\u00a0")


def test_numbers_from_ten_on_have_one_decimal() -> None:
    assert [number(v) for v in (0.12345, 9.9999, 12.345, -1234.5)] == ["0.123", "10.000", "12.3", "-1,234.5"]


def test_an_interval_is_told_by_its_ends_or_by_the_reason_why_it_has_none() -> None:
    assert span(Interval(0.5, 0.25, 0.75, 9)) == "0.250 to 0.750"
    assert span(Interval(0.5, 0.25, 0.75, 9), unit="share") == "25 to 75\u00a0%"
    assert span(Interval(0.5, None, None, 1)) == "one image: no interval"


def test_long_texts_are_cut_and_say_so() -> None:
    assert clip("abc", 3) == "abc"
    assert clip("abcd" * 500, 3) == "abc … (2,000 characters)"


@given(st.text(st.characters()))
def test_printable_text_can_be_encoded_and_holds_no_control_character(text: str) -> None:
    shown = printable(text)
    assert len(shown.encode().decode().splitlines()) <= 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or 0x202A <= ord(c) <= 0x202E for c in shown)
    assert printable(shown) == shown


@given(st.text(st.characters(categories=("L", "N", "P", "Zs", "S", "M"))))
def test_ordinary_text_in_any_script_is_left_alone(text: str) -> None:
    assert printable(text) == text
