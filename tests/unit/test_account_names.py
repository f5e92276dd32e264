"""Names: what may be one, what the eye confuses, what is reserved."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.accounts.names import (
    NAME_CHARS_MAX,
    RESERVED,
    USER_ID,
    BadName,
    canonical,
    check_name,
    fold,
    is_reserved,
    user_id,
)

PLAIN = st.text("abcdefghijklmnopqrstuvwxyz0123456789_.-", min_size=1, max_size=34)
ANY = st.text(max_size=40)
ALPHABETS = ("abcxyzéßıİøɑ0_.-", "абвгдѵ1_.-", "αβγάω2_.-", "田中さくら김", "abаbαあ.-\u200b")
NEARLY = st.sampled_from(ALPHABETS).flatmap(lambda letters: st.text(letters, min_size=2, max_size=33))


def good(name: str) -> bool:
    try:
        check_name(name)
    except BadName:
        return False
    return True


@pytest.mark.parametrize(
    "name",
    ["ada", "Ada.Lovelace", "rené", "user-of-things", "jürgen_99", "Иванов", "γιάννης", "田中さくら", "김민준", "root-beer",
     "straße", "a1b", "x" * NAME_CHARS_MAX],
)  # fmt: skip
def test_names_that_people_have(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ab", "has 2 characters"),
        ("x" * 33, "has 33 characters"),
        ("", "has 0 characters"),
        ("a b", "holds ' '"),
        ("a\0b", "holds '\\x00'"),
        ("ada\u200b", "holds '\\u200b'"),
        ("ﬁona", "holds '\\ufb01'"),
        ("ａｄａ", "holds '\\uff41'"),
        ("a/../b", "holds '/'"),
        (".ada", "must begin"),
        ("ada-", "must begin"),
        ("a..da", "beside each other"),
        ("123", "needs a letter"),
        ("аda", "mixes alphabets"),  # the first one is Cyrillic
        ("adɑ", "mixes alphabets"),  # a phonetic sign
        ("ꓮdaa", "mixes alphabets"),  # Lisu
        ("uabcdefghijklmnop", "looks like the id"),
        ("admin", "is reserved"),
        ("Hive-Admin", "is reserved"),
    ],
)
def test_names_that_are_refused(name: str, why: str) -> None:
    with pytest.raises(BadName, match=why.replace("\\", "\\\\")):
        check_name(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [("robert", "r0bert"), ("bill", "b1ll"), ("Bill", "blll"), ("modern", "modem"), ("vvilma", "wilma"),
     ("a.b.c", "a_b-c"), ("René", "rene"), ("сосо", "coco"), ("ρο", "po"), ("five5", "fives"), ("ALICE", "alice")],
)  # fmt: skip
def test_names_that_look_alike_fold_to_one(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(("one", "other"), [("anna", "hanna"), ("ada", "adam"), ("ab-c", "abc"), ("tom7", "tom8")])
def test_names_that_do_not_look_alike_stay_apart(one: str, other: str) -> None:
    assert fold(one) != fold(other)


@pytest.mark.parametrize("name", ["r00t", "ADM1N", "admin42", "system_hive", "sy5tem", "ad-min", "аdmin", "Root.1"])
def test_what_passes_for_the_hive_is_reserved(name: str) -> None:
    assert is_reserved(name)


@given(st.sampled_from(sorted(RESERVED)), st.integers(0, 999), st.booleans())
def test_reserved_words_stay_so_with_numbers_and_capitals(word: str, number: int, upper: bool) -> None:
    assert is_reserved(f"{word.upper() if upper else word}{number}")


@given(ANY)
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert canonical(canonical(text)) == canonical(text)


@given(PLAIN)
def test_case_and_form_make_no_other_name(name: str) -> None:
    assert canonical(name.upper()) == canonical(name)
    assert fold(name.upper()) == fold(name)


@given(NEARLY)
def test_what_is_good_is_short_visible_and_one_script(name: str) -> None:
    if not good(name):
        return  # most are not; `test_names_that_people_have` sees to it that some are
    assert 3 <= len(name) <= 32
    assert name.isprintable()
    assert not any(c.isspace() for c in name)
    assert unicodedata.normalize("NFKC", name) == name
    assert len({unicodedata.name(c).split()[0] for c in name if c.isalpha()} - {"CJK", "HIRAGANA"}) <= 1
    assert fold(name)


@given(st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_ids_are_of_their_form_and_differ(one: bytes, other: bytes) -> None:
    assert USER_ID.match(user_id(one))
    assert (user_id(one) == user_id(other)) == (one == other)
