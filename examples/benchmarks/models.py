"""Which kinds of models work: a table of tiny random ones, tried one by one.

Every model is made in memory, saved, and used as any other. A cell is "ok" if what it
says was found to be so, or "refused" where a refusal is what the guide promises, with
its message below the table. Anything else is printed, and the program ends with 1.

    python examples/benchmarks/models.py            # all, five minutes on two cores
    python examples/benchmarks/models.py BERT T5    # some
"""

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers
from _common import bare_trainer
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SparseEncoder,
)
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
    WordEmbeddings,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import (
    WhitespaceTokenizer,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder

WORDS = [f"{a}{b}" for a in ("red", "old", "wet", "shy", "big") for b in range(12)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WINDOW = 8  # tokens of sliding attention; documents are longer, up to three times
WIDTH = 32
LAYERS = 4
N_PAIRS = 24
OPTIONS = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "random_state": 0,
    "device": "cpu",
}
SIZES = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_attention_heads": 2,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    # none is drawn, so that other ways to the same weights can be compared
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DECODER = {**SIZES, "num_key_value_heads": 1, "head_dim": 16}
T5 = {
    **{"vocab_size": SIZES["vocab_size"], "d_model": WIDTH, "d_kv": 16, "d_ff": 64},
    **{"num_layers": LAYERS, "num_heads": 2, "dropout_rate": 0.0},
}
DISTIL = {
    **{"vocab_size": SIZES["vocab_size"], "dim": WIDTH, "hidden_dim": 64},
    **{"n_layers": LAYERS, "n_heads": 2, "dropout": 0.0, "attention_dropout": 0.0},
}
GPT2 = {**SIZES, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
DEBERTA = {
    **SIZES,
    **{"relative_attention": True, "position_biased_input": False},
    **{"position_buckets": 16, "pos_att_type": ["p2c", "c2p"]},
    **{"norm_rel_ebd": "layer_norm", "share_att_key": True, "pooler_dropout": 0.0},
}
MODERN = {
    **{**SIZES, "cls_token_id": 2, "sep_token_id": 3, "local_attention": WINDOW},
    "global_attn_every_n_layers": 2,
}
SLIDING = {"sliding_window": WINDOW}
GEMMA3 = {
    **{**DECODER, **SLIDING, "use_bidirectional_attention": True},
    "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
}
# of transformers: {row: (class, its configuration, pooling, whether a decoder)}
TRANSFORMERS = {
    "BERT": ("BertModel", SIZES, "mean", False),
    "DistilBERT": ("DistilBertModel", DISTIL, "mean", False),
    "XLM-R": ("XLMRobertaModel", {**SIZES, "type_vocab_size": 1}, "cls", False),
    "ELECTRA": ("ElectraModel", {**SIZES, "embedding_size": 16}, "cls", False),
    "MPNet": ("MPNetModel", {**SIZES, "pad_token_id": 1}, "mean", False),
    "ModernBERT": ("ModernBertModel", MODERN, "mean", False),
    "Qwen3": ("Qwen3Model", DECODER, "lasttoken", True),
    "Mistral": ("MistralModel", {**DECODER, **SLIDING}, "lasttoken", True),
    "Gemma 2": ("Gemma2Model", {**DECODER, **SLIDING}, "lasttoken", True),
    "Gemma 3": ("Gemma3TextModel", GEMMA3, "mean", True),
    "T5": ("T5EncoderModel", T5, "mean", False),
    "DeBERTa-v2": ("DebertaV2Model", DEBERTA, "mean", False),
    "GPT-2": ("GPT2Model", GPT2, "weightedmean", True),
    "ALBERT": ("AlbertModel", {**SIZES, "embedding_size": 16}, "mean", False),
    "CLIP text": ("CLIPTextModel", SIZES, "mean", False),
}
# what of a model feeds its layers, by its name in any of these
FEEDS = re.compile(r"embed|wte|wpe|shared|rel_|relative_att|encoder\.LayerNorm\.")


# ---- models and texts


def word_tokenizer(kind=None):
    """A tokenizer of WORDS, with the special tokens of an "encoder" or "decoder"."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A [SEP]" if kind == "decoder" else "[CLS] $A [SEP]",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    return tokenizer


def transformer_folder(folder, name, settings, decoder=False):
    """A directory of transformers with random weights."""
    config = re.sub(
        "(Encoder)?(Model|ForMaskedLM|ForSequenceClassification)$", "", name
    )
    config = getattr(transformers, f"{config}Config")(**settings)
    model = getattr(transformers, name)(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # so that attention tells
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer("decoder" if decoder else "encoder"),
        **dict(zip(("pad_token", "unk_token"), SPECIAL, strict=False)),
        **{"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"},
        **{"eos_token": "[SEP]", "model_max_length": 128},
        padding_side="left" if decoder else "right",
    ).save_pretrained(folder)
    return str(folder)


def make_modules(row, folder):
    """The modules of a row of the table."""
    if row in TRANSFORMERS:
        name, settings, pooling, decoder = TRANSFORMERS[row]
        path = transformer_folder(folder / "hf", name, settings, decoder)
        return [Transformer(path), Pooling(WIDTH, pooling), Dense(WIDTH, 16)]
    if row == "StaticEmbedding":
        return [StaticEmbedding(word_tokenizer(), embedding_dim=WIDTH)]
    if row == "WordEmbeddings":
        vectors = np.random.RandomState(0).normal(size=(len(WORDS), WIDTH))
        words = WordEmbeddings(WhitespaceTokenizer(WORDS), vectors.astype("float32"))
        return [words, Pooling(WIDTH), Dense(WIDTH, 16)]  # which is what is trained
    towers = [make_modules("BERT", folder / role) for role in ("query", "document")]
    return [Router.for_query_document(*towers)]


def make(row, folder):
    """Save a model, and itself in bfloat16: {"float32": path, "bfloat16": path}."""
    paths = {kind: str(folder / kind) for kind in ("bfloat16", "float32")}
    if row == "SparseEncoder":
        source = transformer_folder(folder / "hf", "BertForMaskedLM", SIZES)
        SparseEncoder(source, device="cpu").save_pretrained(paths["float32"])
    elif row == "CrossEncoder":
        settings = {**SIZES, "num_labels": 1}
        name = "BertForSequenceClassification"
        source = transformer_folder(folder / "hf", name, settings)
        CrossEncoder(source, device="cpu").save_pretrained(paths["float32"])
    else:
        prompts = {"query": "red1 old1 ", "document": ""} if row == "Qwen3" else {}
        model = SentenceTransformer(
            modules=make_modules(row, folder), device="cpu", prompts=prompts
        )
        for kind, path in paths.items():  # the second with the weights of the first
            model.to(getattr(torch, kind)).save_pretrained(
                path, create_model_card=False
            )
        return paths
    return {kind: paths["float32"] for kind in paths}


def make_pairs():
    """Queries within the window, and documents beyond it."""
    rng = np.random.RandomState(0)
    queries = [" ".join(rng.choice(WORDS, 4)) for _ in range(N_PAIRS)]
    documents = [
        f"{query} {' '.join(rng.choice(WORDS, rng.randint(WINDOW, 3 * WINDOW)))}"
        for query in queries
    ]
    return queries, documents


# ---- the columns: functions that raise an AssertionError where something is not so


def close(ours, theirs, tolerance=1e-5):
    assert np.isfinite(ours).all(), "not finite"
    difference = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
    assert difference <= tolerance, f"differs by {difference:.2g}"


def same_weights(model, other):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), f"{name} differs"


class Row:
    """A model, and what has been made of it."""

    def __init__(self, name, folder):
        folder.mkdir()
        torch.manual_seed(0)
        self.folder, self.paths = folder, make(name, folder)
        self.path = self.paths["float32"]
        self.queries, self.documents = self.pairs = make_pairs()
        self.tuned = None

    def fit(self, path=None, **options):
        finetuner = EmbeddingFinetuner(path or self.path, **{**OPTIONS, **options})
        return finetuner.fit(*self.pairs)

    def vectors(self, estimator):
        return [
            estimator.transform(self.queries),
            estimator.transform_documents(self.documents),
        ]

    def encodes(self):
        """SentenceEncoder gives what SentenceTransformer does."""
        model = SentenceTransformer(self.path, device="cpu")
        encoder = SentenceEncoder(self.path, normalize=False, device="cpu")
        queries, documents = self.vectors(encoder)
        close(queries, model.encode_query(self.queries))
        close(documents, model.encode_document(self.documents))

    def trains(self):
        """Losses are finite, and vectors have changed."""
        self.tuned = self.fit()
        losses = [entry["loss"] for entry in self.tuned.history_ if entry["step"]]
        assert losses and np.isfinite(losses).all(), f"losses {losses}"
        before = self.vectors(SentenceEncoder(self.path, device="cpu"))
        for old, new in zip(before, self.vectors(self.tuned), strict=True):
            assert np.isfinite(new).all(), "not finite"
            assert np.abs(new - old).max() > 1e-3, "nothing was learned"

    def trains_what_is_stored_in_bfloat16(self):
        """In float32: the weights of a fit of the same model stored in float32."""
        tuned = self.fit(self.paths["bfloat16"])
        types = {t.dtype for t in tuned.model_.state_dict().values()}
        assert torch.bfloat16 not in types, "trained in bfloat16"
        same_weights(tuned.model_, self.tuned.model_)

    def trains_low_rank_weights(self):
        tuned = self.fit(trainable="lora", trainable_params={"r": 4})
        base = SentenceTransformer(self.path, device="cpu").state_dict()
        state, learned = tuned.model_.state_dict(), 0
        for name, tensor in state.items():
            plain = name.replace(".base_layer", "")
            if "lora_" not in name and plain in base:
                assert torch.equal(tensor, base[plain]), f"{name} was trained"
            learned += "lora_B" in name and bool(tensor.any())
        assert learned, "nothing was learned"

    def trains_the_top_layers(self):
        """The weights are those of the plain trainer with the others frozen."""
        tuned = self.fit(trainable=2)
        model = SentenceTransformer(self.path, device="cpu")
        model.append(Normalize())
        for name, parameter in model.named_parameters():
            layer = re.search(r"\.(?:layers?|blocks?|h)\.(\d+)\.", name)
            if FEEDS.search(name) or (layer and int(layer[1]) < LAYERS - 2):
                parameter.requires_grad_(False)
        settings = {n: OPTIONS[n] for n in ("epochs", "batch_size", "learning_rate")}
        queries = [model.prompts["query"] + query for query in self.queries]
        bare_trainer(model, queries, self.documents, **settings)
        for name, tensor in model.state_dict().items():
            close(tuned.model_.state_dict()[name].numpy(), tensor.numpy(), 1e-4)

    def is_saved(self):
        """Vectors of a fresh process without skembft are compared at the end."""
        self.tuned = self.tuned or self.fit()
        self.tuned.save_pretrained(self.folder / "saved")
        queries, documents = self.vectors(self.tuned)
        np.savez(self.folder / "vectors.npz", queries=queries, documents=documents)

    def resumes(self):
        """A fit that was stopped ends with the weights of one that was not."""
        options = {"save_checkpoints": True, "checkpoint_save_steps": 2}
        whole = self.fit(model_output_path=self.folder / "whole", **options)
        options["model_output_path"] = self.folder / "stopped"
        stopped = EmbeddingFinetuner(self.path, **{**OPTIONS, **options})
        stopped.set_callbacks(Stop())
        try:
            stopped.fit(*self.pairs)
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("was not stopped")
        with counted(SentenceTransformerTrainer, "training_step") as calls:
            resumed = self.fit(resume_from_checkpoint=True, **options)
        left = OPTIONS["epochs"] * N_PAIRS // OPTIONS["batch_size"] - 2
        assert len(calls) == left, f"{len(calls)} steps instead of {left}"
        same_weights(resumed.model_, whole.model_)

    def is_adapted(self):
        adapter = AdapterFinetuner(
            SentenceEncoder(self.path, device="cpu"), epochs=2, random_state=0
        )
        adapter.fit(*self.pairs)
        for vectors in self.vectors(adapter):
            assert np.isfinite(vectors).all(), "not finite"


@contextmanager
def counted(cls, name):
    """A list that gets an entry at every call of a method."""
    method, calls = getattr(cls, name), []

    def counting(self, *args, **kwargs):
        calls.append(name)
        return method(self, *args, **kwargs)

    setattr(cls, name, counting)
    try:
        yield calls
    finally:
        setattr(cls, name, method)


class Stop:
    """Stops a fit after its first epoch."""

    def setup(self, **kwargs):
        pass

    def teardown(self, **kwargs):
        pass

    def on_fit_task_begin(self, estimator, context, **kwargs):
        pass

    def on_fit_task_end(self, estimator, context, **kwargs):
        if context.task_name == "epoch":
            raise KeyboardInterrupt


COLUMNS = {
    "encoder": Row.encodes,
    "adapter": Row.is_adapted,
    "training": Row.trains,
    "stored in bfloat16": Row.trains_what_is_stored_in_bfloat16,
    "LoRA": Row.trains_low_rank_weights,
    "top layers": Row.trains_the_top_layers,
    "resumed": Row.resumes,
    "saved": Row.is_saved,
}
REFUSED = {
    "ALBERT": {"top layers"},  # one layer, used many times
    "StaticEmbedding": {"LoRA", "top layers"},
    "WordEmbeddings": {"LoRA", "top layers"},
    "Router": {"LoRA", "top layers"},
    "SparseEncoder": set(COLUMNS),
    "CrossEncoder": set(COLUMNS),
}
ROWS = [*TRANSFORMERS, "StaticEmbedding", "WordEmbeddings", "Router"]
ROWS += ["SparseEncoder", "CrossEncoder"]

FRESH = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer

found = {}
for folder in sys.argv[1:]:
    with open(f"{folder}/../texts.json") as file:
        queries, documents = json.load(file)
    model = SentenceTransformer(f"{folder}/saved", device="cpu")
    ours = np.load(f"{folder}/vectors.npz")
    theirs = model.encode_query(queries), model.encode_document(documents)
    pairs = zip((ours["queries"], ours["documents"]), theirs)
    found[folder] = max(float(np.abs(a - b).max()) for a, b in pairs)
assert "skembft" not in sys.modules
print(json.dumps(found))
"""


def try_cell(row, column, refused):
    """The text of a cell, and the message of a refusal or the trace of a failure."""
    try:
        COLUMNS[column](row)
    except (OSError, ValueError) as error:  # which all refusals are
        if refused:
            return "refused", str(error).replace(row.path, "model")
        return "FAILED", traceback.format_exc()
    except Exception:
        return "FAILED", traceback.format_exc()
    if refused:
        return "FAILED", "was not refused"
    return "ok", None


def try_saved(folder, rows):
    """Load all that was saved in one fresh process: {row: largest difference}."""
    if not rows:
        return {}
    (folder / "texts.json").write_text(json.dumps(make_pairs()))
    folders = {str(folder / str(i)): row for i, row in rows.items()}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH, *folders],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return {folders[name]: difference for name, difference in found.items()}


def try_all(names, folder):
    cells, notes = {}, {}
    for i, name in enumerate(names):
        row = Row(name, folder / str(i))
        for column in COLUMNS:
            refused = column in REFUSED.get(name, ())
            cells[name, column], note = try_cell(row, column, refused)
            if note is not None:
                notes[name, column] = note
        print(f"{name} …", file=sys.stderr, flush=True)
    saved = {i: name for i, name in enumerate(names) if cells[name, "saved"] == "ok"}
    for name, difference in try_saved(folder, saved).items():
        if not difference <= 1e-5:
            cells[name, "saved"] = "FAILED"
            notes[name, "saved"] = f"differs by {difference:.2g} in a fresh process"
    return cells, notes


def show(names, cells, notes):
    """Print the table, and the messages of refusals below."""
    numbers = {}
    print(f"| model | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for name in names:
        shown = []
        for column in COLUMNS:
            text = cells[name, column]
            if text == "refused":
                number = numbers.setdefault(notes[name, column], len(numbers) + 1)
                text += f" ({number})"
            shown.append(text)
        print(f"| {name} | {' | '.join(shown)} |")
    print()
    for message, number in numbers.items():
        print(f"{number}. {message}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    names = parser.parse_args().rows or ROWS
    if unknown := set(names) - set(ROWS):
        parser.error(f"no rows {sorted(unknown)}; there are {', '.join(ROWS)}")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        cells, notes = try_all(names, Path(folder))
    show(names, cells, notes)
    failed = [cell for cell, text in cells.items() if text == "FAILED"]
    for name, column in failed:
        print(f"\n{name}, {column}: {notes[name, column]}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
