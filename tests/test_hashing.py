"""How hashes are written."""

from chora.hashing import digest_of, sha256


def test_a_hash_names_its_method():
    """The known hash of three letters, with the method in front."""
    assert sha256(b"abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_order_of_keys_does_not_change_the_digest_of_data():
    """Two objects with the same members have one digest; another value has another."""
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert digest_of([1, 2]) != digest_of([2, 1])
