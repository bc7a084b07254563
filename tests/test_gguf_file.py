import random
import struct

import gguf
import pytest
import tiny

from metaaligner_lite.describe import describe
from metaaligner_lite.errors import FileProblem
from metaaligner_lite.gguf_file import LongArray, read_header


def test_header_agrees_with_gguf_py(tiny_path):
    ours, theirs = read_header(tiny_path, max_array=10**6), gguf.GGUFReader(tiny_path)
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            value = field.contents()
            assert ours.metadata[key] == (tuple(value) if isinstance(value, list) else value), key
    assert [(t.name, t.shape, t.bytes) for t in ours.tensors] == [
        (t.name, tuple(map(int, t.shape)), t.n_bytes) for t in theirs.tensors
    ]
    assert ours.data_offset == theirs.data_offset
    assert ours.check_tensors() == sum(t.n_bytes for t in theirs.tensors)


def test_long_arrays_are_counted_not_read(tiny_path):
    assert read_header(tiny_path, max_array=100).metadata["tokenizer.ggml.tokens"] == LongArray(259)


def header(version=3, tensors=0, keys=0, rest=b""):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is 0 bytes, too short"),
        (b"GGUF", "too short"),
        (b"PK\x03\x04" + bytes(40), "begins with b'PK\\x03\\x04', expected b'GGUF'"),
        (header(version=1), "is GGUF version 1, expected"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is big-endian"),
        (header(tensors=2**60), "announces 1,152,921,504,606,846,976 tensors"),
        (header(keys=2**63), "it is damaged"),
        (header(keys=1, rest=struct.pack("<Q", 2**62) + bytes(20)), "inside its header"),
        (header(keys=1, rest=text("a") + struct.pack("<I", 99)), "unknown kind 99"),
        (header(keys=1, rest=text("a") + struct.pack("<IIQ", 9, 9, 1)), "array of kind 9"),
        (header(keys=1, rest=text("a") + struct.pack("<IIQ", 9, 8, 2**60)), "inside its header"),
        (header(keys=2, rest=(text("a") + struct.pack("<IB", 0, 1)) * 2 + bytes(9)), "repeats the metadata key 'a'"),
        (header(tensors=1, rest=text("t") + struct.pack("<I", 9) + bytes(40)), "with 9 dimensions"),
        (header(tensors=1, rest=text("t") + struct.pack("<IQQQQ", 4, 2**40, 2**40, 1, 1) + bytes(12)), "the shape"),
        (
            header(keys=1, rest=text("general.alignment") + struct.pack("<II", 4, 3)),
            "has an alignment of 3, expected a power of two",
        ),
    ],
)
def test_damaged_headers(tmp_path, data, message):
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(FileProblem) as error:
        read_header(path)
    assert message in str(error.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileProblem, match="no such file"):
        read_header(tmp_path / "absent.gguf")
    with pytest.raises(FileProblem, match="is a folder, expected a .gguf file; `mal convert"):
        read_header(tmp_path)


def test_cut_short_in_the_tensors(tiny_path, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_path.read_bytes()[:-1000])
    with pytest.raises(FileProblem, match=r"is cut short: tensor .* ends at byte [\d,]+, the file at [\d,]+"):
        read_header(path).check_tensors()


def test_random_damage_is_a_clean_error_or_harmless(tiny_path, tmp_path):
    whole, rng, path = tiny_path.read_bytes(), random.Random(0), tmp_path / "fuzz.gguf"
    end = read_header(tiny_path).data_offset
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(end)] = rng.randrange(256)
        path.write_bytes(data[: rng.choice([len(data), len(data), rng.randrange(end)])])
        try:
            describe(path, 128)
        except FileProblem:
            pass


def test_describe(tmp_path):
    path = tiny.write_model(tmp_path / "tiny.gguf", n_ctx=512)
    facts = describe(path, ctx_size=256)
    assert (facts["architecture"], facts["context"], facts["vocabulary"]) == ("llama", 512, 259)
    assert facts["quantization"] == "F32"
    assert facts["bits_per_weight"] == 32
    assert facts["manifest"] is None
    # 2 layers x 2 KV heads x (16 + 16) numbers of 2 bytes, for 256 tokens
    assert facts["memory"]["kv_cache"] == 256 * 2 * 2 * 32 * 2
