"""Tables of labels as people have them: found by what is in them, or explained in one line."""

import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import growth, growth_tables
from convnets.base import params
from convnets.base.console import InputError
from convnets.sources import layout
from convnets.sources.layout import Files, Layout

EIGHT = range(8)
FLAT = [f"{n}.jpg" for n in EIGHT]
FOLDERS = [f"cat/c{n}.jpg" for n in EIGHT] + [f"dog/d{n}.jpg" for n in EIGHT]
HAM = "lesion_id,image_id,dx,dx_type,age,sex,localization\n" + "".join(
    f"HAM_{n // 2},ISIC_{n},{('nv', 'mel', 'bkl', 'nv')[n % 4]},histo,{40 + 5 * (n % 3)},"
    f"{('male', 'female')[n % 2]},{('back', 'face')[n // 2 % 2]}\n"
    for n in EIGHT
)


def read(
    pictures: Iterable[str], tables: dict[str, str | bytes], wanted: str = "auto", **columns: str
) -> Layout:
    """The layout of empty pictures and these tables, with columns that the user names."""
    contents = dict.fromkeys(pictures, b"")
    for name, text in tables.items():
        contents[name] = text if isinstance(text, bytes) else text.encode()
    told = params.Columns(**columns) if columns else None
    files = Files(contents, lambda name, *_: contents[name])
    return layout.recognise(files, wanted, columns=told)


def labels(found: Layout) -> dict[str, str]:
    return {image.member: image.label for image in found.images}


def rows(*columns: Iterable[object], header: str = "", by: str = ",") -> str:
    lines = [by.join(map(str, row)) for row in zip(*columns, strict=True)]
    return "".join(f"{line}\n" for line in [*([header] if header else []), *lines])


AB = [("a", "b")[n % 2] for n in EIGHT]
EXPECTED = dict(zip(FLAT, AB, strict=True))
# The name and the text of a table that says what `EXPECTED` has.
WRITTEN = {
    "unknown titles": ("flowers.csv", rows(FLAT, AB, header="Dateiname;Art", by=";")),
    "no header": ("list.txt", rows(FLAT, AB)),
    "no ending": ("table", rows(FLAT, AB, header="name|kind", by="|")),
    "spaces": ("val.txt", rows(FLAT, AB, by=" ")),
    "a row number first": ("x.csv", rows(EIGHT, FLAT, AB, header=",image,kind")),
    "sep": ("x.csv", "sep=;\r\n" + rows(FLAT, AB, header="file;kind", by=";")),
    "a delimiter of its own": ("x.csv", "sep=:\n" + rows(FLAT, AB, header="file:kind", by=":")),
    "decimal commas": ("x.csv", rows(FLAT, ["0,5"] * 8, AB, by=";")),
    "comments": ("list.txt", "# made by hand\n#image kind\n" + rows(EIGHT, AB, by=" ")),
    "line ends of old Macs": ("x.csv", rows(FLAT, AB, header="file,kind").replace("\n", "\r")),
    "without endings": ("x.csv", rows(EIGHT, AB, header="id,kind")),
    "another ending": ("x.csv", rows([f"{n}.dcm" for n in EIGHT], AB, header="id,kind")),
    "capitals": ("x.csv", rows([f"{n}.JPG" for n in EIGHT], AB, header="id,kind")),
    "Windows": ("x.csv", rows([rf"C:\my\{n}.jpg" for n in EIGHT], AB, header="id,kind")),
    "an address": ("x.csv", rows([f"https://x.org/{n}.jpg" for n in EIGHT], AB)),
    "pandas without names": ("x.csv", rows(FLAT, AB, header="0,1")),
    "numbers and names": ("x.csv", rows(FLAT, [n % 2 for n in EIGHT], AB, header="f,class_id,c")),
    "a column a class": (
        "truth.csv",
        rows(
            FLAT, [f"{n % 2:.1f}" for n in EIGHT], [f"{1 - n % 2}.0" for n in EIGHT], EIGHT
        ).replace("0.jpg,", "image,b,a,weight\n0.jpg,", 1),
    ),
    "JSON lines": (
        "metadata.jsonl",
        "".join(
            json.dumps({"file_name": f, "kind": k, "w": 5}) + "\n" for f, k in EXPECTED.items()
        ),
    ),
    "a list in JSON": ("x.json", json.dumps([{"f": f, "k": k} for f, k in EXPECTED.items()])),
    "a mapping in JSON": ("x.json", json.dumps(EXPECTED)),
    "a mapping to more": (
        "x.json",
        json.dumps({file: {"kind": kind, "width": 5} for file, kind in EXPECTED.items()}),
    ),
    "measurements": (
        "x.csv",
        rows(FLAT, [20 + n % 3 for n in EIGHT], AB, [n % 3 / 7 for n in EIGHT], header="f,age,k,x"),
    ),
}


@pytest.mark.parametrize("form", WRITTEN)
def test_a_table_is_found_by_what_is_in_it(form):
    name, text = WRITTEN[form]
    assert labels(read(FLAT, {name: text})) == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "cp1252"])
def test_an_encoding_is_found(encoding):
    names = [("é", "è")[n % 2] for n in EIGHT]
    text = rows(FLAT, names, header="file;kind", by=";").encode(encoding)
    assert list(labels(read(FLAT, {"x.csv": text})).values()).count("é") == 4
    korean = rows([f"새{n}.jpg" for n in EIGHT], [("개", "고양이")[n % 2] for n in EIGHT], by="\t")
    if encoding != "cp1252":
        found = read([f"새{n}.jpg" for n in EIGHT], {"x.txt": korean.encode(encoding)})
        assert set(labels(found).values()) == {"개", "고양이"}


def test_another_form_of_unicode_names_the_same_file():
    text = rows(["cafe\u0301 1.JPG", "cafe\u0301 2.JPG"], "ab", header="f,label")
    assert len(read(["caf\u00e9 1.jpg", "caf\u00e9 2.jpg"], {"x.csv": text}).images) == 2


def test_the_longest_common_end_counts():
    """And a file that is not there is not another one of its name."""
    pictures = [f"p/{kind}/{n}.jpg" for kind in ("cat", "dog") for n in range(4)]
    pictures += ["p/dog/9.jpg"]
    files = [f"/content/drive/My Drive/{kind}/{n}.jpg" for kind in ("cat", "dog") for n in range(4)]
    files += ["/content/drive/My Drive/cat/9.jpg"]
    text = rows(files, ["CAT"] * 4 + ["DOG"] * 4 + ["CAT"], header="file,label")
    found = read(pictures, {"x.csv": text}, "table")
    assert labels(found) == {name: name[2:5].upper() for name in pictures[:-1]}
    assert found.skipped["p/dog/9.jpg"] == "not in the table"


@pytest.mark.parametrize("lead", ["", "CheXpert-small/train/", "/home/me/"])
def test_outer_folders_may_be_missing_or_more(lead):
    pictures = [f"data/train/patient{n}/study1/view.jpg" for n in EIGHT]
    text = rows([f"{lead}patient{n}/study1/view.jpg" for n in EIGHT], AB, header="Path,label")
    found = read(pictures, {"train.csv": text})
    assert (found.name, len(found.images)) == ("table", 8)


def test_a_label_that_is_called_so_is_it():
    pictures = [f"HAM10000_images_part_{1 + n // 4}/ISIC_{n}.jpg" for n in EIGHT]
    found = read(pictures, {"HAM10000_metadata": HAM})
    assert (found.name, set(labels(found).values())) == ("table", {"nv", "mel", "bkl"})
    with pytest.raises(InputError) as caught:
        read(pictures, {"HAM10000_metadata": HAM.replace("dx,", "kind,")}, "table")
    told = str(caught.value)
    assert all(f"data.columns: {{label: {word}}}" in told for word in ("kind", "sex", "lesion_id"))
    assert "age" not in told
    found = read(pictures, {"HAM10000_metadata": HAM.replace("dx,", "kind,")}, label="kind")
    assert set(labels(found).values()) == {"nv", "mel", "bkl"}


@pytest.mark.parametrize("columns", [{"label": "no"}, {"file": "no"}, {"split": "no"}])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(columns):
    for pictures in (["ISIC_0.jpg", "ISIC_1.jpg"], ["a/ISIC_0.jpg", "b/ISIC_1.jpg"]):
        with pytest.raises(InputError, match=r"m\.csv: .*'no'.*localization"):
            read(pictures, {"m.csv": HAM}, **columns)


def test_kaggles_train_beside_test():
    pictures = [f"{split}/{n}.png" for split in ("train", "test") for n in EIGHT]
    tables = {
        "trainLabels.csv": rows(EIGHT, AB, header="id,label"),
        "test.csv": rows(EIGHT, header="id"),
        "sampleSubmission.csv": rows(EIGHT, ["b"] * 8, header="id,label"),
    }
    found = read(pictures, tables)
    assert labels(found) == {f"train/{name[0]}.png": kind for name, kind in EXPECTED.items()}
    assert {image.split for image in found.images} == {None}
    assert found.skipped["test/0.png"] == "not in the table"
    with pytest.raises(InputError, match="no classes found"):
        read(FLAT, {"sample_submission.csv": tables["sampleSubmission.csv"]})


def test_tables_with_the_names_of_splits_are_one_reading():
    parts = {"train.csv": slice(4), "valid.csv": slice(4, 6), "Testing_set.csv": slice(6, 8)}
    tables = {name: rows(FLAT[part], AB[part], header="f,k") for name, part in parts.items()}
    found = read(FLAT, tables)
    assert labels(found) == EXPECTED
    assert [i.split for i in sorted(found.images, key=lambda i: i.member)] == [
        *["train"] * 4,
        *["validation"] * 2,
        *["test"] * 2,
    ]


@pytest.mark.parametrize("with_label", [False, True])
def test_class_folders_take_the_split_of_a_table_that_agrees(with_label):
    split = [("train", "val", "test", "train")[n % 4] for n in range(16)]
    kind = [name[:3] for name in FOLDERS] if with_label else range(16)
    found = read(FOLDERS, {"x.csv": rows(FOLDERS, kind, split, header="f,animal,set")})
    assert found.name == "classes"
    assert {i.member: i.split for i in found.images}["cat/c1.jpg"] == "validation"
    split[2] = "holdout"
    with pytest.raises(InputError, match=r"x\.csv: column set: 'holdout' .*data\.splits"):
        read(FOLDERS, {"x.csv": rows(FOLDERS, kind, split, header="f,animal,set")})


def test_lists_of_the_files_of_each_split():
    tables = {
        "meta/train.txt": rows([n[:-4] for n in FOLDERS[::2]]),
        "meta/words.txt": "cat\ndog\n",
    }
    tables |= {"meta/test.txt": rows([n[:-4] for n in FOLDERS[1::2]])}
    found = read([f"images/{name}" for name in FOLDERS], tables)
    assert {i.member: i.split for i in found.images}["images/cat/c1.jpg"] == "test"


def test_a_split_of_the_folders_and_another_of_the_table_is_refused():
    pictures = [f"{split}/{kind}/{kind}{split}.jpg" for split in ("train", "test") for kind in "ab"]
    text = rows(pictures, ["test", "train", "test", "test"], header="file,split")
    with pytest.raises(InputError, match=r"'train/a/atrain\.jpg' is in a folder for train"):
        read(pictures, {"x.csv": text})


def test_tiny_imagenets_table_names_its_validation_pictures():
    pictures = [f"train/{w}/images/{w}_{n}.JPEG" for w in ("n01", "n02") for n in EIGHT]
    pictures += [f"val/images/val_{n}.JPEG" for n in EIGHT]
    boxes = [[n % 3, 0, 62, 61 + n % 2] for n in EIGHT]
    tables = {
        "val/val_annotations.txt": rows(
            [f"val_{n}.JPEG" for n in EIGHT],
            [f"n0{1 + n % 2}" for n in EIGHT],
            *zip(*boxes, strict=True),
            by="\t",
        ),
        "words.txt": "n01\tgoldfish, Carassius\nn02\tcat\nn03\tdog\n",
    } | {
        f"train/{w}/{w}_boxes.txt": rows(
            [f"{w}_{n}.JPEG" for n in EIGHT], *zip(*boxes, strict=True), by="\t"
        )
        for w in ("n01", "n02")
    }
    found = read(pictures, tables)
    assert {(i.label, i.split) for i in found.images} == {
        (w, split) for w in ("n01", "n02") for split in ("train", "validation")
    }
    assert len(found.images) == 24


def test_a_table_adds_the_labels_of_pictures_outside_the_class_folders():
    pictures = [f"train/{name}" for name in FOLDERS] + [f"test/{n}.jpg" for n in EIGHT]
    text = rows(EIGHT, [("cat", "dog")[n % 2] for n in EIGHT], header="id,label")
    found = read(pictures, {"test.csv": text})
    assert labels(found)["test/1.jpg"] == "dog"
    assert {i.split for i in found.images if i.member.startswith("test")} == {"test"}


def test_pictures_without_a_label_are_passed_over_and_told():
    kinds = [*AB[:6], "", ""]
    found = read([*FLAT, "8.jpg"], {"x.csv": rows(FLAT, kinds, header="f,k")})
    assert len(found.images) == 6
    assert found.skipped == {
        **dict.fromkeys(("6.jpg", "7.jpg"), "without a class in the table"),
        "8.jpg": "not in the table",
    }


# The pictures, a table, and what the one line says.
MASKS = [f"m{n}.jpg" for n in EIGHT]
REFUSED = {
    "columns of other files": (FLAT, "Dateiname,Art\nq,a\nr,b\n", "flowers.csv.*Dateiname, Art"),
    "two columns of files": (
        FLAT + MASKS,
        rows(FLAT, MASKS, AB, header="image,mask,label"),
        "{file: image} or data.columns: {file: mask}",
    ),
    "measurements": (FLAT, rows(FLAT, [20 + n % 3 for n in EIGHT], header="f,age"), "of age"),
    "several marks": (
        FLAT,
        rows(FLAT, [n % 2 for n in EIGHT], [n // 4 for n in EIGHT], header="f,A,B"),
        "several labels, as here A, B, are not supported",
    ),
    "the same marks": (
        FLAT,
        rows(FLAT, [n % 2 for n in EIGHT], [n % 2 for n in EIGHT], header="f,A,B"),
        "several labels, as here A, B, are not supported",
    ),
    "several in a cell": (
        FLAT,
        rows(FLAT, ["a", "b", "a b", "b"] * 2, header="f,tags"),
        "'a b' is several labels",
    ),
    "a bar": (FLAT, rows(FLAT, ["a", "b", "a|c", "b"] * 2, header="f,tags"), "several labels"),
    "lists in JSON": (
        FLAT,
        "".join(json.dumps({"f": f, "label": ["a", "b"]}) + "\n" for f in FLAT),
        "several labels",
    ),
    "two classes": (FLAT, rows([*FLAT, "0.jpg"], [*AB, "b"], header="f,k"), "'0.jpg' has two cl"),
    "a name twice": (
        ["x/1.jpg", "y/1.jpg"],
        rows(["1.jpg", "1.png"], "ab", header="f,label"),
        "'1.jpg' may be 'x/1.jpg' or 'y/1.jpg'",
    ),
    "other JSON": (FLAT, json.dumps({"images": [{"id": 9}] * 999, "boxes": [1]}), "names none"),
    "no words of splits": (
        FLAT,
        rows(FLAT, AB, [n % 3 for n in EIGHT], header="f,k,partition"),
        r"column partition: '0', '1', '2' .*data\.splits .*\"0\": \"test\"",
    ),
    "damaged JSON": (FLAT, '{"f": "0.jpg"}\n{"f"', "not a table"),
    "deep JSON": (FLAT, "[" * 100_000, "not a table"),
    "a number without an end": (FLAT, f"[{'1' * 9999}]", "not a table"),
    "a cell without an end": (FLAT, 'f,label\n0.jpg,"' + "x" * 200_000, "not a table"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_known_is_one_line_with_the_tables_name(case):
    pictures, text, problem = REFUSED[case]
    with pytest.raises(InputError, match=problem) as caught:
        read(pictures, {"flowers.csv": text}, "table")
    assert "flowers.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_tables_that_contradict_each_other_are_named():
    tables = {
        f"{name}.csv": rows(FLAT, kinds, header="f,k")
        for name, kinds in {"one": AB, "two": AB[::-1]}.items()
    }
    with pytest.raises(InputError, match=r"'0\.jpg' is 'a' in one\.csv and 'b' in two\.csv"):
        read(FLAT, tables)


def test_other_text_is_no_table():
    notes = {
        "README": "Pictures, taken in May",
        "cat/c0.txt": "0 0.5 0.5 0.1 0.1\n",
        "camera.csv": rows(FOLDERS, ["100", "200"] * 8, header="file,iso"),
        "weights.dat": bytes(range(256)) * 50,
    }
    found = read(FOLDERS, notes)
    assert (found.name, len(found.images)) == ("classes", 16)
    assert set(found.skipped) == set(notes)


def test_a_table_that_says_something_else_than_the_folders_is_asked():
    text = rows(FOLDERS, ["Canon", "Nikon"] * 8, header="file,camera")
    with pytest.raises(InputError, match="ambiguous"):
        read(FOLDERS, {"exif.csv": text})


@given(st.binary(max_size=300), st.integers(0, 200), st.sampled_from(list(WRITTEN)))
def test_a_damaged_table_is_one_line_or_tells_what_it_leaves_out(noise, place, form):
    name, text = WRITTEN[form]
    raw = text.encode()
    try:
        found = read(FLAT, {name: raw[:place] + noise + raw[place + len(noise) :]})
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert {i.member for i in found.images} | set(found.skipped) >= set(FLAT)


@pytest.mark.parametrize("form", growth_tables.FORMS)
def test_ten_times_the_rows_cost_at_most_fifteen_times_the_calls(form):
    few, many = (growth.calls(growth_tables.task(form, count)) for count in (200, 2000))
    assert many <= 15 * few


def test_the_growth_is_a_table():
    lines = list(growth_tables.table((10, 100)))
    assert len(lines) == 2 + len(growth_tables.FORMS)
    assert {line.count("|") for line in lines} == {5}
