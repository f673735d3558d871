"""What is trained, at which rates, with how much memory, and from where."""

import pickle
import re
import tempfile
import warnings

import joblib
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV

from skembft import EmbeddingFinetuner
from skembft._embedding.speed.lower_layers import lower_layers_once
from skembft._embedding.trainable import LayerStack, freeze_lower_layers, layer_rates

OPTIONS = {"epochs": 2, "learning_rate": 1e-3, "random_state": 0, "device": "cpu"}


def changed(finetuner, model_path):
    """Names of the weights that differ from those of the untouched model."""
    before = SentenceTransformer(model_path, device="cpu").state_dict()
    after = finetuner.model_.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


# ---- top layers


def test_only_the_top_layers_are_trained(bert_model, pairs):
    finetuner = EmbeddingFinetuner(bert_model, trainable=1, **OPTIONS).fit(*pairs)
    names = changed(finetuner, bert_model)
    assert names and all(".encoder.layer.1." in name for name in names)
    assert all(p.requires_grad for p in finetuner.model_.parameters())
    everything = EmbeddingFinetuner(bert_model, trainable=2, **OPTIONS).fit(*pairs)
    names = changed(everything, bert_model)
    assert {name.split(".")[2] for name in names} == {"encoder"}


def test_frozen_layers_run_once_a_text(bert_model, pairs, monkeypatch):
    """In three epochs with validation at every step."""
    from transformers.models.bert.modeling_bert import BertLayer

    rows = []
    forward = BertLayer.forward

    def counting(self, hidden_states, *args, **kwargs):
        if self.attention.self.layer_idx == 0:
            rows.append(len(hidden_states))
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(BertLayer, "forward", counting)
    options = {**OPTIONS, "epochs": 3, "evaluation_steps": 1}
    finetuner = EmbeddingFinetuner(bert_model, trainable=1, **options)
    finetuner.fit(*pairs, X_val=pairs[0], y_val=pairs[1])
    assert finetuner.n_iter_ == 12
    distinct = len(set(pairs[0])) + len(set(pairs[1]))
    # a text shows what follows the layers; the first batch is run whole, to compare
    assert sum(rows) == distinct + sum(rows[:2])


def test_frozen_layers_computed_once_train_the_same(no_dropout, pairs, monkeypatch):
    """As with the lower layers computed in every step, without dropout."""
    from contextlib import nullcontext

    from skembft._embedding import trainer as training

    options = {**OPTIONS, "trainable": 1, "precision": "float32"}
    once = EmbeddingFinetuner(no_dropout, **options).fit(*pairs)
    monkeypatch.setattr(training, "lower_layers_once", lambda *args: nullcontext())
    always = EmbeddingFinetuner(no_dropout, **options).fit(*pairs)
    difference = once.transform(pairs[0]) - always.transform(pairs[0])
    assert np.abs(difference).max() < 1e-5
    assert changed(once, no_dropout) == changed(always, no_dropout)


def test_frozen_layers_where_the_disk_is_full(bert_model, pairs, monkeypatch):
    """They compute every batch anew, without dropout as before."""
    resource = pytest.importorskip("resource")
    files, make = [], tempfile.TemporaryFile
    monkeypatch.setattr(
        tempfile,
        "TemporaryFile",
        lambda *a, **k: files.append(make(*a, **k)) or files[-1],
    )
    options = {**OPTIONS, "trainable": 1}
    plain = EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, limits[1]))
    try:
        with pytest.warns(UserWarning, match="File too large.*set the environment"):
            full = EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    difference = full.transform(pairs[0]) - plain.transform(pairs[0])
    assert np.abs(difference).max() < 1e-4
    assert len(files) == 2 and all(file.closed for file in files)


def test_a_kill_leaves_no_file_of_hidden_states(
    bert_model, pairs, monkeypatch, tmp_path
):
    from skembft._embedding.hf_trainer import FinetuningTrainer

    found, step = [], FinetuningTrainer.training_step

    def looking(*args, **kwargs):
        found.extend(path for path in tmp_path.rglob("*") if path.is_file())
        return step(*args, **kwargs)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(FinetuningTrainer, "training_step", looking)
    EmbeddingFinetuner(bert_model, trainable=1, **OPTIONS).fit(*pairs)
    assert not found and not list(tmp_path.iterdir())


def test_too_many_layers_and_none(bert_model, static_model, pairs):
    with pytest.raises(ValueError, match="3 top layers are more than the model has: 2"):
        EmbeddingFinetuner(bert_model, trainable=3).fit(*pairs)
    with pytest.raises(ValueError, match="StaticEmbedding has none"):
        EmbeddingFinetuner(static_model, trainable=1).fit(*pairs)
    with pytest.raises(ValueError, match="'trainable' parameter of EmbeddingFinetuner"):
        EmbeddingFinetuner(bert_model, trainable="top").fit(*pairs)


# ---- LoRA


def test_lora_trains_low_rank_weights(bert_model, pairs):
    params = {"r": 4, "target_modules": ["query", "value"], "lora_dropout": 0.1}
    finetuner = EmbeddingFinetuner(
        bert_model, trainable="lora", trainable_params=params, **OPTIONS
    ).fit(*pairs)
    after = finetuner.model_.state_dict()
    low_rank = {name: t for name, t in after.items() if ".lora_" in name}
    assert len(low_rank) == 2 * 2 * 2  # A and B of two matrices in two layers
    assert all(min(tensor.shape) == 4 for tensor in low_rank.values())
    before = SentenceTransformer(bert_model, device="cpu").state_dict()
    for name, tensor in after.items():
        if ".lora_" not in name:
            assert torch.equal(tensor, before[name.replace(".base_layer", "")]), name
    untouched = SentenceTransformer(bert_model, device="cpu").encode(pairs[0])
    assert not np.allclose(finetuner.transform(pairs[0]), untouched, atol=1e-3)


def test_merged_lora_gives_the_same_vectors(bert_model, pairs, tmp_path):
    params = {"r": 4}
    plain = EmbeddingFinetuner(
        bert_model, trainable="lora", trainable_params=params, **OPTIONS
    ).fit(*pairs)
    merged = EmbeddingFinetuner(
        bert_model,
        trainable="lora",
        trainable_params={**params, "merge": True},
        model_output_path=tmp_path,
        **OPTIONS,
    ).fit(*pairs)
    expected = plain.transform(pairs[0])
    assert not [n for n, _ in merged.model_.named_parameters() if "lora" in n]
    assert np.abs(merged.transform(pairs[0]) - expected).max() < 1e-5
    alone = SentenceTransformer(str(tmp_path)).encode(pairs[0])
    assert np.abs(alone - expected).max() < 1e-5
    # a pickle needs no base model, and leaves the fitted one as it is
    loaded = pickle.loads(pickle.dumps(plain))
    assert np.abs(loaded.transform(pairs[0]) - expected).max() < 1e-5
    assert [n for n, _ in plain.model_.named_parameters() if "lora" in n]


def test_a_peft_that_transformers_does_not_take(bert_model, pairs, monkeypatch):
    minimum = "transformers.integrations.peft.MIN_PEFT_VERSION"
    monkeypatch.setattr(minimum, "99.0")
    with pytest.raises(ImportError, match=r"needs peft 99.0 or newer, and peft \d"):
        EmbeddingFinetuner(bert_model, trainable="lora").fit(*pairs)


def test_bad_lora(bert_model, static_model, pairs):
    def fit(model, **options):
        EmbeddingFinetuner(model, **{"trainable": "lora", **options}).fit(*pairs)

    with pytest.raises(ValueError, match="'rank' is not among .* Valid names"):
        fit("no/model", trainable_params={"rank": 4})
    with pytest.raises(ValueError, match="`r` should be a positive"):
        fit(bert_model, trainable_params={"r": 0})
    with pytest.raises(ValueError, match="trainable_params go with trainable='lora'"):
        fit(bert_model, trainable="all", trainable_params={"r": 4})
    with pytest.raises(ValueError, match="needs a transformer, not StaticEmbedding"):
        fit(static_model)


# ---- rates


def test_layer_decay(bert_model, pairs):
    model = SentenceTransformer(bert_model, device="cpu")
    rates = layer_rates(model, 1e-3, 0.5)
    path = LayerStack.of(model, "").path
    by_layer = [rates[rf"(^|\.){re.escape(f'{path}.{i}.')}"] for i in (1, 0)]
    assert by_layer == [1e-3, 5e-4]
    assert set(rates.values()) == {1e-3, 5e-4, 2.5e-4}

    def moved(name, **options):
        finetuner = EmbeddingFinetuner(
            bert_model, **{**OPTIONS, "epochs": 1, "warmup_ratio": 0, **options}
        ).fit(pairs[0][:10], pairs[1][:10])
        after = finetuner.model_.state_dict()[name]
        return (after - model.state_dict()[name]).abs().max().item()

    for name, share in (
        (f"{path}.1.output.dense.weight", 1.0),
        (f"{path}.0.output.dense.weight", 0.5),
        (path.replace("encoder.layer", "embeddings.LayerNorm.weight"), 0.25),
    ):  # a first step of Adam is as long as its rate
        assert moved(name, layer_decay=0.5) == pytest.approx(
            share * moved(name), rel=0.02
        )


# ---- cost


def test_gradient_accumulation_is_a_larger_batch_of_pairs(no_dropout, pairs):
    """Labelled pairs have no in-batch negatives: the same loss, then."""
    rows, labels = list(zip(*pairs, strict=True)), [i % 2 for i in range(40)]
    options = {**OPTIONS, "loss": "cosine_similarity", "epochs": 1}
    large, small = (
        EmbeddingFinetuner(no_dropout, **options, **more).fit(rows, labels)
        for more in (
            {"batch_size": 20},
            {"batch_size": 10, "gradient_accumulation_steps": 2},
        )
    )
    assert large.n_iter_ == small.n_iter_ == 2
    difference = large.transform(pairs[0]) - small.transform(pairs[0])
    assert np.abs(difference).max() < 1e-4


def test_activation_checkpointing_trains_the_same(bert_model, pairs):
    """Bit for bit, with dropout, and with frozen layers beneath."""
    for trainable in ("all", 1):
        options = {**OPTIONS, "trainable": trainable}
        kept, again = (
            EmbeddingFinetuner(bert_model, activation_checkpointing=c, **options)
            .fit(*pairs)
            .transform(pairs[0])
            for c in (False, True)
        )
        assert np.array_equal(kept, again)


# ---- from where


def test_warm_start_trains_further(bert_model, pairs):
    """The same as a fit from a model of the weights that the first fit ended with."""
    finetuner = EmbeddingFinetuner(bert_model, warm_start=True, **OPTIONS).fit(*pairs)
    first = finetuner.transform(pairs[0])
    loss = finetuner.history_[-1]["loss"]
    again = EmbeddingFinetuner(bert_model, warm_start=True, **OPTIONS).fit(*pairs)
    assert np.array_equal(again.transform(pairs[0]), first)
    finetuner.fit(*pairs)
    assert finetuner.history_[-1]["loss"] < loss
    cold = EmbeddingFinetuner(bert_model, **OPTIONS).fit(*pairs).fit(*pairs)
    assert np.array_equal(cold.transform(pairs[0]), first)


def test_warm_start_equals_a_fit_of_the_saved_model(bert_model, pairs, tmp_path):
    finetuner = EmbeddingFinetuner(
        bert_model, warm_start=True, model_output_path=tmp_path, **OPTIONS
    ).fit(*pairs)
    expected = EmbeddingFinetuner(str(tmp_path), **OPTIONS).fit(*pairs)
    finetuner.set_params(model_output_path=None).fit(*pairs)
    assert np.array_equal(finetuner.transform(pairs[0]), expected.transform(pairs[0]))


def test_a_failed_warm_start_leaves_the_model(bert_model, pairs):
    finetuner = EmbeddingFinetuner(bert_model, warm_start=True, **OPTIONS).fit(*pairs)
    before = finetuner.transform(pairs[0])
    finetuner.set_params(learning_rate=1e20)
    with pytest.raises(ValueError, match="diverged"):
        finetuner.fit(*pairs)
    assert np.array_equal(finetuner.transform(pairs[0]), before)


def test_warm_start_of_lora(bert_model, pairs):
    finetuner = EmbeddingFinetuner(
        bert_model, trainable="lora", warm_start=True, **OPTIONS
    ).fit(*pairs)
    names = [name for name, _ in finetuner.model_.named_parameters()]
    loss = finetuner.history_[-1]["loss"]
    finetuner.fit(*pairs)
    assert [name for name, _ in finetuner.model_.named_parameters()] == names
    assert finetuner.history_[-1]["loss"] < loss


# ---- searches


def test_weights_are_read_once_a_process(bert_model, pairs, monkeypatch, tmp_path):
    from shutil import copytree

    import safetensors

    path = str(copytree(bert_model, tmp_path / "model"))
    opened = []
    safe_open = safetensors.safe_open

    def counting(filename, *args, **kwargs):
        if str(filename).endswith("model.safetensors"):
            opened.append(filename)
        return safe_open(filename, *args, **kwargs)

    import transformers.modeling_utils as modeling

    monkeypatch.setattr(modeling, "safe_open", counting)
    grid = GridSearchCV(
        EmbeddingFinetuner(path, **OPTIONS),
        {"epochs": [1, 2]},
        cv=2,
        error_score="raise",
    )
    grid.fit(*pairs)
    first = EmbeddingFinetuner(path, **OPTIONS).fit(*pairs).transform(pairs[0])
    assert len(set(opened)) == 1 and opened.count(opened[0]) <= 2  # keys, then weights
    again = EmbeddingFinetuner(path, **OPTIONS).fit(*pairs).transform(pairs[0])
    assert np.array_equal(first, again)  # training has not touched what is shared


def test_halving_over_epochs(bert_model, pairs):
    search = HalvingGridSearchCV(
        EmbeddingFinetuner(bert_model, **OPTIONS),
        {"learning_rate": [1e-5, 1e-4, 1e-3]},
        resource="epochs",
        min_resources=1,
        max_resources=3,
        factor=3,
        cv=2,
        random_state=0,
        error_score="raise",
    )
    search.fit(*pairs)
    assert search.n_resources_ == [1, 3]
    assert search.best_estimator_.epochs == 3


def test_workers_train_the_same_and_show_progress(bert_model, pairs, capfd):
    from sklearn.callback import ProgressBar

    scores = []
    for n_jobs in (1, 2):
        grid = GridSearchCV(
            EmbeddingFinetuner(bert_model, **OPTIONS),
            {"epochs": [1, 2]},
            cv=2,
            n_jobs=n_jobs,
            error_score="raise",
        )
        grid.set_callbacks(ProgressBar(max_propagation_depth=None))
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            grid.fit(*pairs)
        scores.append(grid.cv_results_["mean_test_score"])
        assert capfd.readouterr().out.count("EmbeddingFinetuner - fit") >= 5
    assert np.allclose(*scores, atol=1e-6)


def test_hard_negatives(bert_model, pairs):
    queries, documents = pairs
    options = {**OPTIONS, "evaluation_steps": 1, "epochs": 1}
    plain, hard = (
        EmbeddingFinetuner(bert_model, negatives=negatives, **options)
        .fit(queries, documents)
        .history_[1]["loss"]
        for negatives in ("batch", "hard")
    )
    assert hard > plain


@pytest.mark.slow
def test_torch_compile(bert_model, pairs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = EmbeddingFinetuner(
            bert_model, torch_compile=True, **{**OPTIONS, "epochs": 1}
        ).fit(*pairs)
    assert np.isfinite(compiled.transform(pairs[0])).all()
    pickle.loads(pickle.dumps(compiled))


# ---- what other fits, models and tools leave


def same_vectors(finetuner, other, queries, tolerance=1e-5):
    vectors = finetuner.transform(queries)
    if isinstance(other, SentenceTransformer):
        others = other.encode_query(queries, normalize_embeddings=True)
    else:
        others = other.transform(queries)
    return np.abs(vectors - others).max() < tolerance


def test_a_lora_directory_is_a_model_like_any_other(bert_model, pairs, tmp_path):
    """It is merged when it is loaded: all of it is trained, saved and pickled."""
    queries = pairs[0]
    lora, written = tmp_path / "lora", tmp_path / "written"
    first = EmbeddingFinetuner(
        bert_model, trainable="lora", model_output_path=lora, **OPTIONS
    ).fit(*pairs)
    assert same_vectors(first, SentenceTransformer(str(lora)), queries)
    for trainable in ("all", "lora", np.int64(1)):
        finetuner = EmbeddingFinetuner(
            str(lora),
            trainable=trainable,
            trainable_params={"merge": True} if trainable == "lora" else None,
            model_output_path=written,
            **OPTIONS,
        ).fit(*pairs)
        assert not same_vectors(finetuner, first, queries, 1e-3)
        assert same_vectors(finetuner, SentenceTransformer(str(written)), queries)
        assert same_vectors(finetuner, pickle.loads(pickle.dumps(finetuner)), queries)


def test_no_old_adapter_is_put_onto_new_weights(bert_model, pairs, tmp_path):
    options = {"model_output_path": tmp_path, **OPTIONS}
    EmbeddingFinetuner(bert_model, trainable="lora", **options).fit(*pairs)
    finetuner = EmbeddingFinetuner(bert_model, **options).fit(*pairs)
    assert same_vectors(finetuner, SentenceTransformer(str(tmp_path)), pairs[0])


def test_warm_start_with_other_weights_to_train(bert_model, pairs):
    finetuner = EmbeddingFinetuner(
        bert_model, trainable="lora", warm_start=True, **OPTIONS
    ).fit(*pairs)
    before = finetuner.transform(pairs[0])
    finetuner.set_params(trainable="all", learning_rate=1e-12).fit(*pairs)
    assert np.abs(finetuner.transform(pairs[0]) - before).max() < 1e-5
    finetuner.set_params(learning_rate=1e-3).fit(*pairs)
    names = changed(finetuner, bert_model)
    assert any("word_embeddings" in name for name in names)
    assert not any("lora" in name for name, _ in finetuner.model_.named_parameters())


def test_warm_start_takes_new_options(bert_model, pairs):
    finetuner = EmbeddingFinetuner(bert_model, warm_start=True, **OPTIONS).fit(*pairs)
    finetuner.set_params(max_seq_length=4, truncate_dim=8).fit(*pairs)
    assert finetuner.model_.max_seq_length == 4
    assert finetuner.transform(pairs[0]).shape == (40, 8)
    restored = pickle.loads(pickle.dumps(finetuner))
    assert restored.model_.truncate_dim == 8
    assert restored.set_params(truncate_dim=None).fit(*pairs).embedding_dim_ == 32


@pytest.mark.parametrize(
    "params",
    [
        {"modules_to_save": ["word_embeddings"]},
        {"trainable_token_indices": [1]},
        {"inference_mode": True},
        {"use_dora": True},
        {"merge": "no"},
    ],
)
def test_lora_that_would_not_be_saved(pairs, params):
    finetuner = EmbeddingFinetuner(
        "no/model", trainable="lora", trainable_params=params
    )
    with pytest.raises(ValueError, match="trainable_params"):
        finetuner.fit(*pairs)


def test_loss_of_accumulated_batches_is_their_mean(bert_model, pairs):
    options = {**OPTIONS, "epochs": 1, "learning_rate": 1e-12, "evaluation_steps": 0}
    one, four = (
        EmbeddingFinetuner(bert_model, gradient_accumulation_steps=n, **options)
        .fit(*pairs)
        .history_[-1]["loss"]
        for n in (1, 4)
    )
    assert four == pytest.approx(one, rel=1e-3)


def test_queries_and_documents_with_routes_of_their_own(bert_model, pairs, tmp_path):
    from sentence_transformers.sentence_transformer.modules import Router

    towers = [list(SentenceTransformer(bert_model, device="cpu")) for _ in range(2)]
    router = Router.for_query_document(
        query_modules=towers[0], document_modules=towers[1]
    )
    SentenceTransformer(modules=[router], device="cpu").save_pretrained(
        str(tmp_path), create_model_card=False
    )
    finetuner = EmbeddingFinetuner(str(tmp_path), **OPTIONS).fit(*pairs)
    same = [finetuner.transform([text]) for text in pairs[1][:1]]
    assert not np.allclose(same, finetuner.transform_documents(pairs[1][:1]), atol=1e-3)
    names = changed(finetuner, str(tmp_path))
    assert any("query" in n for n in names) and any("document" in n for n in names)
    with pytest.raises(ValueError, match="trainable=1 needs one stack of layers"):
        finetuner.set_params(trainable=1).fit(*pairs)
    # the queries' transformer alone would have got the low-rank weights
    with pytest.raises(ValueError, match="trainable='lora' needs one transformer"):
        finetuner.set_params(trainable="lora").fit(*pairs)


def test_layers_that_give_tuples_are_left_out_too(pairs, tmp_path, bert_model):
    """MPNet's layers return their hidden states in a tuple."""
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, MPNetConfig, MPNetModel

    config = MPNetConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    MPNetModel(config).save_pretrained(str(tmp_path))
    AutoTokenizer.from_pretrained(bert_model).save_pretrained(str(tmp_path))
    transformer = Transformer(str(tmp_path))
    model = SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu").eval()
    stack = freeze_lower_layers(model, 1)
    features = model.preprocess(pairs[1])
    rows = []
    stack.layers[0].register_forward_pre_hook(lambda _, x: rows.append(len(x[0])))
    with torch.no_grad(), lower_layers_once(model, stack, 1):
        first, again = (model(dict(features))["sentence_embedding"] for _ in range(2))
        assert rows == [40, len(set(pairs[1]))]
        expected = model.__class__.forward(model, dict(features))
    assert torch.equal(first, again)
    assert torch.allclose(first, expected["sentence_embedding"], atol=1e-5)


def test_nothing_is_left_in_the_model(bert_model, pairs, monkeypatch):
    """Neither autocast's forward nor activation checkpointing."""
    from skembft._models import precision

    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    finetuner = EmbeddingFinetuner(
        bert_model,
        precision="auto",
        sort_by_length=False,
        activation_checkpointing=True,
        **OPTIONS,
    ).fit(*pairs)
    model = finetuner.model_
    assert not {"forward", "_original_forward"} & set(model.__dict__)
    layers = LayerStack.of(model, "").layers
    assert not any(layer.gradient_checkpointing for layer in layers)
    assert finetuner.transform(pairs[0]).dtype == np.float32


def test_truncate_dim_beyond_the_model(bert_model, pairs):
    finetuner = EmbeddingFinetuner(bert_model, truncate_dim=1000, **OPTIONS)
    assert finetuner.fit(*pairs).embedding_dim_ == 32
    assert len(finetuner.get_feature_names_out()) == 32


def test_trainable_is_no_boolean(pairs):
    with pytest.raises(ValueError, match="trainable must be 'all', 'lora' or a number"):
        EmbeddingFinetuner("no/model", trainable=True).fit(*pairs)
