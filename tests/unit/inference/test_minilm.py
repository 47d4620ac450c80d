import base64
import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from polymem.inference.minilm import EncodedChunk, MiniLm, ModelDamaged
from polymem.inference.minilm.encoder import MODEL_FOLDER

# What the float32 graph of the published weights says, scaled to signed bytes.
EXACT_EMBEDDINGS = {
    "Caroline adopted a grey kitten from the shelter last spring.": (
        "3iMXLuz32u/+EhjU9PsIPeX+CxDC5+rI91L6Bgb4q9QFIw7a3v0HEfcE/wvYFxPk+c3P7voC9SVB6BDV5C0A+hAhwOMd6yziBubW"
        "MT5/KBr5CBX29Ey97dEYIgbNFP3UBQoMH+EmEif0wzj2Ife93uAbEMgsNg4BWgcBAOMAywAc3SMsLBr42uDM1PHXs8Q2vef+PTgQ"
        "//vH8gUCB+v39STkyPch6/MP7f9ODBP3CfcgxCrg3AzbBfsI5wkx91nTKBH6GAkfIjkT19zuHur85zDvGib70e8A5A0UTdG3GwAH"
        "9gj39fni+Rkr0wQ77e0+5gghtwQJ0/5J+AZmAocB+BAPCCIDFA/e6NnbGzwMERMcAC/p3RsLITYWPyIkBMkG5fIs2uQELCX0/PVA"
        "IgHe8sHgFQ4AyVP46fbqD/oE1wASCZkSORni2vjy2cr7IjcILPEXLcsM4wPws8wQHNfjLiwE8QP3zwr8GA4Q5dv7DssY+Ccu8hbq"
        "JA41ODDt5vkw"
    ),
    "How do I renew my passport before the trip to Lisbon?": (
        "CRwT+uIatQsAHffap+ma/MUeAEc/6KX85joa6PoKTvPKKgrjVfE/EfnKzzBPLPz8Kjwo58b7yykMTuYZFfLrBqsg9Pkb+t/iGNwF"
        "IPDz+g0WH+H0KgEGvAAiNQPA9qbmCRIZLhss9wPfEhnMHQr+0QIU1Bjf8gnYPAA76+3kUQDuCeE17vy9+L8PKiPa9OYa5g0ZAiaT"
        "Bw9ANOWvFPvpQxfM5z4V7/0OCSMqAk2zLRFd0tSiyyQK45QWGroy49sqPNXwURjOGvUa/7IaIj3UFvnj7gVPMxEr1undE/q55gBP"
        "lPgX/B39Dc7sA7Y98C0QrBwKKvo+2gc43swlBQj5BOApE1IpHBx/DNrf2/Ik6Bb39DLxqNcR9hzFDwUJ1Bfo9OrxQPouC+XuKBa5"
        "ASs89dvw2gkeDwbN7Ae11tzpxwAv3joMHQMIPbCVIAAD8PYVEQcBFsEgELIKFx4j7ejoCDT75RD29b3AGDXS7hb4H+77D9gvREgB"
        "CRYsBjUWAdzJ"
    ),
}
MIXED_TEXTS = [
    "What did Grace send on Tuesday?",
    "",
    "A much longer note about the garden: " + "the roses need water, the hedge needs cutting. " * 40,
    "Where is my red bicycle?",
    "What did Hugo send on Friday?",
    "\N{SNOWMAN}\N{PILE OF POO} \N{CJK UNIFIED IDEOGRAPH-6771}\N{CJK UNIFIED IDEOGRAPH-4EAC}",
    "ok",
]


@pytest.fixture(scope="module")
def model() -> MiniLm:
    return MiniLm.load()


@pytest.fixture
def copied_files(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL_FOLDER, tmp_path / "model"))


def embedding(model: MiniLm, text: str) -> NDArray[np.float32]:
    [[chunk]] = model.encode([text])
    return chunk.embedding


def assert_same(left: list[EncodedChunk], right: list[EncodedChunk]) -> None:
    assert [(c.start, c.end, c.tokens) for c in left] == [(c.start, c.end, c.tokens) for c in right]
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one.embedding, other.embedding)
        np.testing.assert_array_equal(one.token_vectors, other.token_vectors)


def test_the_manifest_says_what_the_model_is(model: MiniLm) -> None:
    assert (model.name, model.dimension, model.token_dimension, model.max_tokens) == ("all-MiniLM-L6-v2", 384, 64, 256)
    assert model.revision.endswith(hashlib.sha256((MODEL_FOLDER / "model.onnx").read_bytes()).hexdigest()[:12])


@pytest.mark.parametrize("text", EXACT_EMBEDDINGS)
def test_embeddings_are_those_of_the_published_weights(model: MiniLm, text: str) -> None:
    exact = np.frombuffer(base64.b64decode(EXACT_EMBEDDINGS[text]), np.int8).astype(np.float32)
    assert embedding(model, text) @ exact / np.linalg.norm(exact) > 0.99


def test_a_text_has_the_same_vectors_alone_and_in_any_batch(model: MiniLm) -> None:
    alone = [model.encode([text])[0] for text in MIXED_TEXTS]
    for order in ([0, 1, 2, 3, 4, 5, 6], [6, 4, 0, 2, 5, 3, 1], [0, 0, 4, 4, 2, 2]):
        for at, chunks in zip(order, model.encode([MIXED_TEXTS[i] for i in order]), strict=True):
            assert_same(chunks, alone[at])


def test_threads_do_not_disturb_each_other(model: MiniLm) -> None:
    alone = [model.encode([text])[0] for text in MIXED_TEXTS]
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(model.encode, [MIXED_TEXTS] * 8):
            for chunks, expected in zip(result, alone, strict=True):
                assert_same(chunks, expected)


def test_paraphrases_are_closer_than_other_sentences(model: MiniLm) -> None:
    query, paraphrase, other = (
        embedding(model, text)
        for text in (
            "How much did the car repair cost?",
            "What was the price of fixing the automobile?",
            "My sister loves painting landscapes in autumn.",
        )
    )
    assert query @ paraphrase > query @ other + 0.4


def test_token_vectors_know_the_meaning_of_their_word(model: MiniLm) -> None:
    texts = "We sat on the bank of the river.", "The bank refused the loan.", "The shore of the river was muddy."
    river, money, shore = (
        self_vector(model, text, word) for text, word in zip(texts, ("bank", "bank", "shore"), strict=True)
    )
    assert river @ shore > money @ shore


def self_vector(model: MiniLm, text: str, word: str) -> NDArray[np.float64]:
    [[chunk]] = model.encode([text])
    row = [text[start:end] for start, end in chunk.tokens].index(word)
    vector = chunk.token_vectors[row].astype(np.float64)
    return np.asarray(vector / np.linalg.norm(vector))


@pytest.mark.parametrize("text", MIXED_TEXTS)
def test_vectors_have_unit_length_and_the_promised_shape(model: MiniLm, text: str) -> None:
    for chunk in model.encode([text])[0]:
        assert chunk.embedding.shape == (384,)
        assert chunk.embedding.dtype == np.float32
        assert np.linalg.norm(chunk.embedding) == pytest.approx(1, abs=1e-5)
        assert chunk.token_vectors.dtype == np.int8
        assert chunk.token_vectors.shape == (len(chunk.tokens), 64)
        lengths = np.linalg.norm(chunk.token_vectors.astype(np.float64), axis=1)
        np.testing.assert_allclose(lengths, 127, atol=3)


def test_tokens_name_their_characters(model: MiniLm) -> None:
    text = "Zoë paid 12 euros!"
    [[chunk]] = model.encode([text])
    assert [text[start:end] for start, end in chunk.tokens] == ["Zoë", "paid", "12", "euros", "!"]
    assert (chunk.start, chunk.end) == (0, len(text))


@pytest.mark.parametrize("text", ["", "   \n\t ", "\N{ZERO WIDTH SPACE}"])
def test_a_text_without_tokens_has_one_chunk_without_token_vectors(model: MiniLm, text: str) -> None:
    [[chunk]] = model.encode([text])
    assert (chunk.start, chunk.end, chunk.tokens, chunk.token_vectors.shape) == (0, len(text), (), (0, 64))


def test_unknown_signs_are_tokens_too(model: MiniLm) -> None:
    text = "\N{PILE OF POO} \N{SNOWMAN}"
    [[chunk]] = model.encode([text])
    assert chunk.tokens == ((0, 1), (2, 3))


def test_chunks_cover_a_long_text_and_overlap(model: MiniLm) -> None:
    text = " ".join(f"On day {i} we walked {i * 3} miles, then rested." for i in range(150)) + "  "
    [chunks] = model.encode([text])
    assert len(chunks) > 5
    assert (chunks[0].start, chunks[-1].end) == (0, len(text))
    assert all(len(chunk.tokens) <= 254 for chunk in chunks)
    for before, after in pairwise(chunks):
        assert before.tokens[-32:] == after.tokens[:32]
        assert (after.start, before.end) == (after.tokens[0][0], before.tokens[-1][1])


@pytest.mark.parametrize(("tokens", "chunks"), [(254, 1), (255, 2), (476, 2), (477, 3)])
def test_a_new_chunk_starts_only_for_tokens_that_have_none(model: MiniLm, tokens: int, chunks: int) -> None:
    assert len(model.encode(["word " * tokens])[0]) == chunks


def test_a_limit_keeps_the_first_chunks(model: MiniLm) -> None:
    texts = [" ".join(f"sentence number {i}," for i in range(700)), "short"]
    everything = model.encode(texts)
    for limit in (1, 2, 3):
        for kept, whole in zip(model.encode(texts, max_chunks=limit), everything, strict=True):
            assert_same(kept, whole[:limit])


def test_a_limit_of_nothing_is_refused(model: MiniLm) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        model.encode(["text"], max_chunks=0)


def test_only_the_start_of_a_huge_text_is_read_when_a_limit_is_given(model: MiniLm) -> None:
    text = ("The quick brown fox jumps over the lazy dog. " * 5_000)[:200_000]
    [chunks] = model.encode([text], max_chunks=2)
    assert len(chunks) == 2
    assert chunks[1].end < 3_000


def test_a_huge_text_is_chunked_to_its_end(model: MiniLm) -> None:
    text = "x" * 200_000  # one word beyond the tokenizer's limit: a single unknown token
    [[chunk]] = model.encode([text])
    assert (chunk.start, chunk.end) == (0, 200_000)
    assert_same(model.encode([text], max_chunks=1)[0], [chunk])


def test_no_texts_have_no_chunks(model: MiniLm) -> None:
    assert model.encode([]) == []


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "manifest.json"])
def test_a_missing_file_is_damage(copied_files: Path, name: str) -> None:
    (copied_files / name).unlink()
    with pytest.raises(ModelDamaged, match=name):
        MiniLm.load(copied_files)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_flipped_bit_is_damage(copied_files: Path, name: str) -> None:
    content = bytearray((copied_files / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied_files / name).write_bytes(content)
    with pytest.raises(ModelDamaged, match=name):
        MiniLm.load(copied_files)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", "null"])
def test_a_manifest_that_says_too_little_is_damage(copied_files: Path, manifest: str) -> None:
    (copied_files / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(ModelDamaged, match=r"manifest\.json"):
        MiniLm.load(copied_files)


def test_a_manifest_without_hashes_is_damage(copied_files: Path) -> None:
    file = copied_files / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"sha256": None}), encoding="utf-8")
    with pytest.raises(ModelDamaged, match=r"manifest\.json"):
        MiniLm.load(copied_files)
