"""Lists of recordings, and what is said about those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.accuracy.manifest import Clip, LabelledRecording, ManifestError, read_clips, read_labelled, read_paths


def listed(folder: Path, text: str | bytes) -> Path:
    path = folder / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_clips_have_what_the_list_says_and_paths_from_its_folder(tmp_path: Path) -> None:
    manifest = listed(
        tmp_path,
        "path,speaker,gender,language,corpus,seconds\n"
        "a/1.wav,anna,F,de,mine,3\n"
        "/elsewhere/2.wav, bob ,male,en-GB,,4\n"
        '"with, comma.wav"\n',
    )
    assert read_clips(manifest) == [
        Clip(tmp_path / "a/1.wav", "mine", "anna", "f", "de"),
        Clip(Path("/elsewhere/2.wav"), tmp_path.name, "bob", "m", "en"),
        Clip(tmp_path / "with, comma.wav", tmp_path.name, "", "", ""),
    ]


def test_a_relative_list_names_its_folder_as_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(listed(tmp_path, "path\n1.wav\n").parent)
    assert read_clips(Path("list.csv")) == [Clip(Path("1.wav"), tmp_path.name, "", "", "")]


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfpath,speaker\n1.wav,anna\n",
        b"path,speaker\r\n1.wav,anna\r\n\r\n",
        b"speaker, path\n anna , 1.wav \n",
        b'"path","speaker"\n"1.wav","anna"',
    ],
)
def test_what_spreadsheets_and_hands_write_is_read(tmp_path: Path, text: bytes) -> None:
    (clip,) = read_clips(listed(tmp_path, text), "speaker")
    assert (clip.path, clip.speaker) == (tmp_path / "1.wav", "anna")


def test_clips_without_what_is_needed_are_left_out(tmp_path: Path) -> None:
    manifest = listed(tmp_path, "path,speaker,gender\n1.wav,anna,f\n2.wav,,f\n3.wav,bob,\n")
    assert [clip.path.name for clip in read_clips(manifest, "speaker")] == ["1.wav", "3.wav"]
    assert [clip.path.name for clip in read_clips(manifest, "speaker", "gender")] == ["1.wav"]


@pytest.mark.parametrize(
    ("text", "needed", "fault"),
    [
        (b"", [], "{}: no column path"),
        (b"file\n1.wav\n", [], "{}: no column path"),
        (b"path\n1.wav\n", ["speaker", "gender"], "{}: no column speaker, gender"),
        (b"path,speaker\n", ["speaker"], "{}: lists no recording"),
        (b"path,speaker\n1.wav,\n", ["speaker"], "{}: no recording has a speaker"),
        (b"path,speaker,gender\n1.wav,,m\n", ["speaker", "gender"], "{}: no recording has a speaker and a gender"),
        (b"path,speaker\n1.wav,a\n\n,b\n", [], "{}, line 4: no path"),
        (b"path,gender\n1.wav,m\n2.wav,mixed\n", [], "{}, line 3: gender 'mixed' is neither m nor f nor empty"),
        (b"path\n1.wav\n2.wav\n1.wav\n", [], "{}, line 4: 1.wav is listed in line 2 already"),
        (b"path\n1.wav\n./1.wav\n", [], "{}, line 3: ./1.wav is listed in line 2 already"),
        (b"path\na, b.wav\n", [], "{}, line 2: 2 cells under 1 columns; quote what has commas"),
        (b"path\n\xff.wav\n", [], "{}: 'utf-8' codec can't decode byte 0xff in position 5: invalid start byte"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_the_place(
    tmp_path: Path, text: bytes, needed: list[str], fault: str
) -> None:
    manifest = listed(tmp_path, text)
    with pytest.raises(ManifestError) as caught:
        read_clips(manifest, *needed)
    assert str(caught.value) == fault.format(manifest)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read_clips(tmp_path / "none.csv")
    assert str(caught.value) == f"{tmp_path / 'none.csv'}: No such file or directory"
    with pytest.raises(ManifestError, match="Is a directory"):
        read_clips(tmp_path)


def test_csv_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="field larger than field limit"):
        read_paths(listed(tmp_path, 'path\n"' + "x" * 200_000))


def test_segments_are_gathered_by_recording(tmp_path: Path) -> None:
    manifest = listed(
        tmp_path,
        "path,start,end,label,speaker\n"
        "set_1.wav,2.5,3,speech,B\n"
        "set_1.wav,0,1.25,,A\n"
        "set_1.wav,1.5,2,music,\n"
        "plain.wav,,,,\n"
        "set_1.wav,2.75,4,speech,A\n",
    )
    assert read_labelled(manifest) == [
        LabelledRecording(tmp_path / "set_1.wav", "set", [(0.0, 1.25), (2.5, 3.0), (2.75, 4.0)]),
        LabelledRecording(tmp_path / "plain.wav", tmp_path.name, []),
    ]


def test_a_corpus_column_goes_before_the_name(tmp_path: Path) -> None:
    (recording,) = read_labelled(listed(tmp_path, "path,start,end,corpus\nset_1.wav,0,1,mine\n"))
    assert recording == LabelledRecording(tmp_path / "set_1.wav", "mine", [(0.0, 1.0)])


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("a,b", "start and end are seconds"),
        ("0,", "start and end are seconds"),
        (",1", "start and end are seconds"),
        ("2,1", "a segment from 2 to 1 s"),
        ("-1,1", "a segment from -1 to 1 s"),
        ("0,inf", "a segment from 0 to inf s"),
        ("nan,1", "a segment from nan to 1 s"),
    ],
)
def test_segments_that_are_none_are_refused(tmp_path: Path, row: str, fault: str) -> None:
    manifest = listed(tmp_path, f"path,start,end\n1.wav,0,1\n1.wav,{row}\n")
    with pytest.raises(ManifestError) as caught:
        read_labelled(manifest)
    assert str(caught.value) == f"{manifest}, line 3: {fault}"


def test_segments_need_their_columns(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no column start, end"):
        read_labelled(listed(tmp_path, "path\n1.wav\n"))


def test_paths_are_listed_once(tmp_path: Path) -> None:
    manifest = listed(tmp_path, "path,seconds\nb.wav,1\na.wav,2\nb.wav,1\n")
    assert read_paths(manifest) == [tmp_path / "b.wav", tmp_path / "a.wav"]


def test_corpora_may_be_chosen(tmp_path: Path) -> None:
    manifest = listed(tmp_path, "path,corpus\n1.wav,a\n2.wav,b\n3.wav,a\n")
    assert [clip.path.name for clip in read_clips(manifest, corpora=["a"])] == ["1.wav", "3.wav"]
    with pytest.raises(ManifestError, match="no corpus c, d; it has a, b"):
        read_clips(manifest, corpora=["d", "a", "c"])
    segments = listed(tmp_path, "path,start,end\na_1.wav,0,1\nb_1.wav,0,1\n")
    assert [one.path.name for one in read_labelled(segments, ["b"])] == ["b_1.wav"]


@pytest.mark.parametrize("tag", ["en", "EN", "en-US", "en_GB", "en-Latn-US"])
def test_the_primary_language_of_a_tag_counts(tmp_path: Path, tag: str) -> None:
    (clip,) = read_clips(listed(tmp_path, f"path,language\n1.wav,{tag}\n"), "language")
    assert clip.language == "en"
