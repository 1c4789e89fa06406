"""The manifest: canonical, versioned, and nothing in it can be changed unnoticed."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup import manifest as manifests
from asyncbackup import sealed as sealed_files
from asyncbackup.errors import ManifestError
from asyncbackup.model import (
    CopyBlock,
    DatabaseProperties,
    Extension,
    LargeObject,
    Manifest,
    SequenceValue,
    StoredFile,
)

SHA = "0123456789abcdef" * 4
SMALL = Manifest(
    host="db",
    port=5432,
    dbname="app",
    kind="database",
    run_id="20260131T120000Z-00000000",
    started_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
    finished_at=datetime(2026, 1, 31, 12, 0, 1, 500_000, tzinfo=UTC),
    local_time="2026-01-31T13:00:00+01:00",
    server_version="15.20",
    client_version="15.20",
    loads_into=15,
    file=StoredFile(
        name="db-app_2026-01-31_13-00-00.sql.gz", bytes=4711, sha256=SHA, compressor="isal", level=1
    ),
    sql_bytes=10_000,
    rows=3,
    table_count=2,
    encoding="UTF8",
    outside_blake3=SHA,
    restricted=True,
)
FULL = dataclasses.replace(
    SMALL,
    dbname='o"dd\n日本 \udce9',
    properties=DatabaseProperties(
        owner="it's",
        acl=("=Tc/postgres", "a=CTc/postgres"),
        connection_limit=3,
        comment="\\.\n",
        encoding="UTF8",
        locale_provider="libc",
        settings=(("", "TimeZone=UTC"), ("role", "work_mem=8MB")),
        security_labels=(("provider", "label"),),
    ),
    roles=("a", "b"),
    extensions=(Extension(name="hstore", version="1.8", schema="public"),),
    object_counts={"pg_class.r": 3},
    unlogged=("public.u",),
    warnings=("pg_dump: warning: there are circular foreign-key constraints",),
    sequences=(SequenceValue(schema="public", name="s", last_value=-(2**63), is_called=False),),
    large_objects=(LargeObject(oid=4_294_967_295, bytes=0, sha256=SHA),),
    tables=(CopyBlock(schema="s", table='t"', columns=("a", "b, c"), rows=3, bytes=12, blake3=SHA),),
)

texts = st.text(max_size=20)
counts = st.integers(0, 2**63)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
instants = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
any_manifest = st.builds(
    Manifest,
    host=texts,
    dbname=texts,
    started_at=instants,
    finished_at=instants,
    file=st.builds(StoredFile, name=texts, bytes=counts, sha256=digests),
    properties=st.builds(
        DatabaseProperties,
        acl=st.none() | st.lists(texts, max_size=3).map(tuple),
        comment=st.none() | texts,
        settings=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    ),
    roles=st.lists(texts, max_size=3).map(tuple),
    object_counts=st.dictionaries(texts, counts, max_size=3),
    tables=st.lists(
        st.builds(CopyBlock, columns=st.lists(texts, max_size=3).map(tuple), blake3=digests), max_size=3
    ).map(tuple),
)


@settings(deadline=None)
@given(any_manifest)
def test_it_is_read_back(manifest: Manifest) -> None:
    assert manifests.from_json(manifests.to_json(manifest)) == manifest


@pytest.mark.parametrize("manifest", [SMALL, FULL])
class TestOne:
    def test_it_is_canonical(self, manifest: Manifest) -> None:
        written = manifests.to_json(manifest)
        assert manifests.to_json(manifests.from_json(written)) == written
        assert written.isascii()
        assert written.endswith(b"}\n")

    def test_it_fits_the_schema(self, manifest: Manifest) -> None:
        jsonschema.Draft202012Validator.check_schema(manifests.schema())
        jsonschema.validate(json.loads(manifests.to_json(manifest)), manifests.schema())

    def test_the_digest_is_over_everything_else(self, manifest: Manifest) -> None:
        document = json.loads(manifests.to_json(manifest))
        assert list(document)[:2] == ["format", "version"]
        assert list(document)[-1] == "digest"
        assert set(document) == {"format", "version", "digest"} | {
            field.name for field in dataclasses.fields(Manifest)
        }

    def test_the_form_of_the_text_does_not_matter(self, manifest: Manifest) -> None:
        document = json.loads(manifests.to_json(manifest))
        shuffled = json.dumps(dict(sorted(document.items(), reverse=True)), indent=3)
        assert manifests.from_json(shuffled.encode()) == manifest

    def test_every_cut_is_refused(self, manifest: Manifest) -> None:
        written = manifests.to_json(manifest)
        for end in range(len(written) - 1):  # the line end behind the last brace says nothing
            with pytest.raises(ManifestError):
                manifests.from_json(written[:end])


def says_the_same(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def test_every_byte_that_changes_what_it_says_is_noticed() -> None:
    written = manifests.to_json(SMALL)
    refused = 0
    for at in range(len(written)):
        for byte in {written[at] ^ 1, written[at] ^ 32, ord("0"), ord('"'), ord("}"), 0xFF} - {written[at]}:
            changed = written[:at] + bytes([byte]) + written[at + 1 :]
            if says_the_same(changed, written):
                continue  # a space for a line end outside of strings, and the like
            with pytest.raises(ManifestError):
                manifests.from_json(changed)
            refused += 1
    assert refused > 5 * len(written)


@settings(deadline=None)
@given(st.data())
def test_a_byte_more_or_less_is_noticed(data: st.DataObject) -> None:
    written = manifests.to_json(FULL)
    at = data.draw(st.integers(0, len(written) - 1))
    insert = data.draw(st.binary(max_size=2))
    changed = written[:at] + insert + written[at + 1 :]
    if not says_the_same(changed, written):
        with pytest.raises(ManifestError):
            manifests.from_json(changed)


def sealed(**changes: object) -> bytes:
    """Return a manifest that was changed by someone who knows how to seal it."""
    document = {**json.loads(manifests.to_json(SMALL)), **changes}
    del document["digest"]
    document = {name: value for name, value in document.items() if value is not ...}
    return json.dumps({**document, "digest": sealed_files.digest(document)}).encode()


@pytest.mark.parametrize("version", [2, 0, -1, 99, "1", 1.5, None, [1], {}])
def test_another_version_is_refused_and_not_guessed(version: object) -> None:
    with pytest.raises(ManifestError, match="it is of version") as caught:
        manifests.from_json(sealed(version=version))
    assert "newer" in caught.value.hint


def test_a_sealed_one_is_read() -> None:
    assert manifests.from_json(sealed()) == SMALL


@pytest.mark.parametrize(
    "changes",
    [{"host": ...}, {"file": ...}, {"port": "no number"}, {"tables": [{"schema": "s"}]}, {"started_at": "yesterday"}],
)  # fmt: skip
def test_fields_that_are_missing_or_wrong(changes: dict[str, object]) -> None:
    with pytest.raises(ManifestError, match="does not have the fields"):
        manifests.from_json(sealed(**changes))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b"{}", b'"x"', b"\xff\xfe", b"1", b'{"format": "other", "version": 1}', b"[" * 100_000, b"\0" * 100],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match="it is not"):
        manifests.from_json(data)


def test_times_keep_their_instant() -> None:
    read = manifests.from_json(manifests.to_json(SMALL))
    assert read.finished_at - read.started_at == timedelta(seconds=1.5)
    assert read.started_at.utcoffset() == timedelta(0)
