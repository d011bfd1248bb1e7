"""Every file that the package or a stage writes is written through `speakerprint.files`, so that it is whole or not there."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAFE = {"whole_file", "whole_folder", "explain_full_disk"}
WRITING = {
    *("write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "to_csv", "to_parquet", "savefig", "tofile", "savez"),
    *(
        "save_file",
        "ParquetWriter",
        "write_table",
        "copy",
        "copy2",
        "copyfile",
        "copyfileobj",
        "copytree",
        "dump",
        "create_array",
    ),
}
MODULES = {
    "np",
    "torch",
    "onnx",
    "soundfile",
    "json",
    "shutil",
    "pickle",
}  # whose `save`, `write`, `dump` and `copy` write a file
MODES = set("wax+")
ELSEWHERE = {  # (file, function): why it may
    ("files.py", "_refusal"): "asks for room",
    ("inference/bulk.py", "__init__"): "the journal of a run: a torn end is cut off",
    ("inference/bulk.py", "_write_npy"): "called with whole_file's path",
    ("inference/bulk.py", "_write_npz"): "called with whole_file's path",
    ("inference/bulk.py", "_write_csv"): "called with whole_file's path",
    ("inference/bulk.py", "_write_lines"): "called with whole_file's path",
    ("inference/bulk.py", "_write_json"): "called with whole_file's path",
    ("model/onnx_graph.py", "write_onnx"): "called with whole_folder's path",
    ("model/whisper.py", "_download_wheels"): "a list for pip in a temporary folder",
    ("pages/toolkit.py", "__init__"): "into memory",
    ("audio/resample.py", "encode"): "into memory",
    ("corpora/sharing.py", "at_work"): "an empty file whose being there says all",
    ("corpora/spool.py", "unpack"): "an empty file, to be added to",
    ("corpora/sources/common_voice.py", "_unpacked"): "a temporary file without a name",
    ("corpora/sources/espeak.py", "_write_speaker"): "in the folder that write_release throws away",
    ("corpora/sources/espeak.py", "_write_table"): "in the folder that write_release throws away",
    ("corpora/sources/espeak.py", "_pack"): "under a name that write_release changes when it is whole",
    ("corpora/resampling.py", "make"): "a shard: whole once its marker is there (corpora/shards.py)",
    ("corpora/feature_store.py", "create_store"): "in the folder that features.py moves when it is whole",
    ("corpora/feature_store.py", "write_shard"): "a shard: whole once its marker is there (corpora/shards.py)",
    ("stages/__init__.py", "put_back_outputs"): "what DVC's cache has, after a failure; it says what it put back",
}


def writes(call: ast.Call) -> bool:
    """Whether a call looks like one that writes a file."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""
    of = call.func.value.id if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) else ""
    constants = [one.value for one in (*call.args, *(word.value for word in call.keywords)) if isinstance(one, ast.Constant)]
    modes = [one for one in constants if isinstance(one, str) and 0 < len(one) <= 3 and set(one) <= MODES | set("rbt")]
    if name in {"open", "ZipFile", "open_group", "open_array"}:
        named = [one for one in (*call.args[:2], *(word.value for word in call.keywords if word.arg == "mode"))]
        decided_later = any(isinstance(one, ast.Name) and one.id == "mode" for one in named)
        return decided_later or any(MODES & set(mode) for mode in modes)
    if name in {"save", "write", "dump", "copy", "copy2"}:
        return of in MODULES
    is_helper = name == "write_text" and (of == "files" or not isinstance(call.func, ast.Attribute))
    return name in WRITING and not is_helper


def found(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The function and the line of each call that writes a file outside of a `with` of `SAFE`."""

    def visit(node: ast.AST, function: str, safe: bool) -> Iterator[tuple[str, int]]:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.With):
            names = {ast.unparse(item.context_expr).partition("(")[0].rpartition(".")[2] for item in node.items}
            safe = safe or bool(names & SAFE)
        if isinstance(node, ast.Call) and not safe and writes(node):
            yield function, node.lineno
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function, safe)

    return visit(tree, "", False)


def test_no_file_is_written_but_through_the_one_helper():
    sources = [(path, path.relative_to(ROOT / "src/speakerprint").as_posix()) for path in ROOT.glob("src/speakerprint/**/*.py")]
    sources += [(path, path.relative_to(ROOT).as_posix()) for path in ROOT.glob("stages/*.py")]
    bare = {(name, function): line for path, name in sources for function, line in found(ast.parse(path.read_text("utf-8")))}
    assert {place: line for place, line in bare.items() if place not in ELSEWHERE} == {}
    assert ELSEWHERE.keys() - bare.keys() == set(), "these write nothing any more"


@pytest.mark.parametrize(
    ("code", "n"),
    [
        ("path.write_text('a')", 1),
        ("write_text('a', path)", 0),
        ("files.write_text('a', path)", 0),
        ("with whole_file(path) as part: part.write_text('a')", 0),
        ("with files.whole_file(path) as part, part.open('w') as file: file.write('a')", 0),
        ("open(path, 'w')", 1),
        ("path.open('a+b')", 1),
        ("path.open(mode)", 1),
        ("path.open()", 0),
        ("open(path, 'rb')", 0),
        ("np.save(path, rows)", 1),
        ("torch.save(state, path)", 1),
        ("model.save(path)", 0),
        ("zarr.open_array(path, mode='r+')", 1),
        ("shutil.copyfile(one, other)", 1),
    ],
)
def test_the_search_tells_what_writes_a_file_from_what_does_not(code, n):
    assert len(list(found(ast.parse(code)))) == n
