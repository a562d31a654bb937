"""Pseudonyms: the same under the same key, nothing under another, and the key is kept apart."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from ctlib.core.pseudonyms import KEY_BYTES, Identity, IdentityError


def test_pseudonyms_depend_on_key_kind_and_id():
    one, other = Identity(b"one"), Identity(b"other")
    names = [one.patient("P1"), one.study("P1"), one.series("P1"), one.patient("P2"), other.patient("P1")]
    assert len({name.split("-")[1] for name in names}) == len(names)
    assert one.patient("P1") == Identity(b"one").patient("P1")
    assert "P1" not in "".join(names)


def test_paths_keep_their_shape_and_harmless_endings_only():
    made = Identity(b"key").path("Doe Jane/CT.Doe/1.nii.GZ")
    assert made.count("/") == 2 and made.endswith(".nii.gz")
    assert "doe" not in made.lower() and "ct" not in made.lower()
    assert Identity(b"key").path("a/b").split("/")[0] == Identity(b"key").path("a/c").split("/")[0]
    assert Identity(b"key").path(".") == "."


def test_the_repr_does_not_tell_the_key():
    assert "sesame" not in repr(Identity(b"sesame"))


def test_a_key_is_made_once_for_its_owner_only(tmp_path):
    path = tmp_path / "config" / "key"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Identity.at(str(path), tmp_path / "work"), range(16)))
    assert len({identity.key for identity in made}) == 1
    assert len(made[0].key) >= KEY_BYTES and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert Identity.at("public", tmp_path).key != made[0].key


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda work: work / "key", "keep the key out of the work folder"),
        (lambda work: work.parent / "short", "holds 5 bytes, at least 32"),
        (lambda work: work.parent / "link" / "key", "keep the key out of the work folder"),
    ],
)
def test_a_bad_key_is_refused(tmp_path, make, said):
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "short").write_text("short")
    (tmp_path / "link").symlink_to(work)
    with pytest.raises(IdentityError, match=said):
        Identity.at(str(make(work)), work)
    assert list(work.iterdir()) == []
