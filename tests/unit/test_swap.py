"""The names that a restore gives to databases, which have 63 bytes at most."""

from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.conf import is_working_copy
from asyncbackup.postgres.swap import kept_name, working_name

RUN = "0b886fb4"
STAMP = "20261123_041002"


def test_a_short_name_stays_whole() -> None:
    assert working_name("shop", RUN) == "shop_restoring_0b886fb4"
    assert kept_name("shop", STAMP) == "shop_before_20261123_041002"


def test_a_long_one_is_cut_between_two_characters() -> None:
    name = "日" * 21
    assert len(name.encode()) == 63
    assert working_name(name, RUN) == "日" * 14 + "_restoring_0b886fb4"
    assert kept_name(name, STAMP) == "日" * 13 + "_before_20261123_041002"


@given(
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1).filter(
        lambda s: len(s.encode()) <= 63
    )
)
def test_every_name_fits_and_is_known_for_what_it_is(name: str) -> None:
    for given_name, suffix in (
        (working_name(name, RUN), "_restoring_" + RUN),
        (kept_name(name, STAMP), "_before_" + STAMP),
    ):
        assert len(given_name.encode()) <= 63
        assert given_name.endswith(suffix)
        assert name.startswith(given_name.removesuffix(suffix))
        assert is_working_copy(given_name)
        assert given_name != name or is_working_copy(name)
