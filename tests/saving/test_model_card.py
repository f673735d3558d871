"""The card of a model: what the hub reads of it, and whose it is."""

import pickle
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer
from sentence_transformers.base import model as base_model

import skembft
from skembft import AdapterFinetuner, CorpusFinetuner, EmbeddingFinetuner

OPTIONS = {"epochs": 1, "learning_rate": 1e-3, "random_state": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def base(static_model, tmp_path_factory):
    """A model with a card of its own, in a directory that is nobody's business."""
    path = tmp_path_factory.mktemp("secret") / "base-model"
    shutil.copytree(static_model, path)
    card = "---\ntags:\n- of-the-base\n---\n# Base\n| nDCG | 99.9 |\n"
    (path / "README.md").write_text(card)
    return str(path)


@pytest.fixture(scope="module")
def fitted(base, pairs, tmp_path_factory):
    path = tmp_path_factory.mktemp("output") / "written"
    finetuner = EmbeddingFinetuner(
        base,
        query_prompt='a|b: "c"\n--- ',
        model_output_path=path,
        **{**OPTIONS, "learning_rate": 0.1},
    )
    return finetuner.fit(*pairs, X_val=pairs[0][:30], y_val=pairs[1][:30])


def cards_of(finetuner, folder):
    """The card, by all ways in which the model is saved."""
    yield Path(finetuner.model_output_path, "README.md")
    finetuner.save_pretrained(folder / "saved")
    yield folder / "saved" / "README.md"
    copies = {
        "model": finetuner.model_,
        "pickled": pickle.loads(pickle.dumps(finetuner)).model_,
        "loaded": skembft.load(folder / "saved").model_,
        "opened": SentenceTransformer(str(folder / "saved"), device="cpu"),
    }
    for name, model in copies.items():
        model.save_pretrained(str(folder / name))
        yield folder / name / "README.md"


def test_the_hub_reads_every_card(fitted, pairs, base, tmp_path):
    kept = {entry["step"]: entry for entry in fitted.history_}[fitted.best_step_]
    for path in cards_of(fitted, tmp_path):
        card = ModelCard.load(path)
        assert card.data.library_name == "sentence-transformers"
        assert card.data.pipeline_tag == "sentence-similarity"
        assert card.data.base_model is None
        assert card.data.tags == [
            *("sentence-transformers", "sentence-similarity", "feature-extraction"),
            *("skembft", "dataset_size:40", "loss:MultipleNegativesRankingLoss"),
        ]
        results = {r.metric_type: r for r in card.data.eval_results}
        assert list(results) == card.data.metrics
        assert len(results) == 6
        for name, result in results.items():
            assert result.metric_value == kept[name.removeprefix("cosine_")]
            assert result.task_type == "information-retrieval"
            assert result.dataset_name == "held-out queries"
        text = path.read_text()
        assert "of-the-base" not in text and "99.9" not in text
        assert str(Path(base).parent) not in text and "from `base-model`" in text
        assert not any(words in text for words in pairs[0] + pairs[1])
        assert "| `query_prompt` | `'a\\|b: \"c\"\\n--- '` |" in text


def test_publishing_takes_the_card_along(fitted, tmp_path, monkeypatch):
    class Hub:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **kwargs):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path, **kwargs):
            shutil.copytree(folder_path, tmp_path / "hub")
            return type("Commit", (), {"commit_url": "…"})

    monkeypatch.setattr(base_model, "HfApi", Hub)
    model = pickle.loads(pickle.dumps(fitted)).model_
    model.push_to_hub("someone/tuned", replace_model_card=True)
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert "skembft" in card.data.tags and card.data.eval_results
    assert 'model = SentenceTransformer("someone/tuned")' in card.text


def test_a_base_of_the_hub_is_named(bert_model, pairs, tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "models--owner--tiny"
    revision = "0123456789" * 4
    shutil.copytree(bert_model, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "hub"))
    finetuner = EmbeddingFinetuner("owner/tiny", loss="matryoshka", **OPTIONS)
    finetuner.set_params(loss_params={"loss": "triplet", "matryoshka_dims": [16, 8]})
    finetuner.fit(*pairs).save_pretrained(tmp_path / "saved")
    data = ModelCard.load(tmp_path / "saved" / "README.md").data
    assert data.base_model == "owner/tiny"
    assert data.tags[-2:] == ["loss:MatryoshkaLoss", "loss:TripletLoss"]
    assert data.eval_results is None and data.metrics is None


@pytest.mark.filterwarnings("ignore:Training did not help", "ignore:The vectors of")
def test_cards_of_the_others(static_model, pairs, tmp_path):
    adapter = AdapterFinetuner(static_model, epochs=3, random_state=0)
    corpus = CorpusFinetuner(static_model, random_state=0)
    closed = AdapterFinetuner(static_model, solver="closed_form", random_state=0)
    for name, finetuner, library in (
        ("adapter", adapter, "sentence-transformers"),
        ("split", adapter, None),
        ("closed", closed, "sentence-transformers"),
        ("corpus", corpus, None),
    ):
        finetuner.fit(*pairs)
        options = {"split": True} if name == "split" else {}
        finetuner.save_pretrained(tmp_path / name, **options)
        data = ModelCard.load(tmp_path / name / "README.md").data
        assert data.library_name == library and "dataset_size:40" in data.tags
        assert ("sentence-transformers" in data.tags) == (library is not None)
        has_loss = any(tag.startswith("loss:") for tag in data.tags)
        assert has_loss == (name in ("adapter", "split"))
        values = {r.metric_type: r.metric_value for r in data.eval_results}
        score = finetuner.validation_score_
        assert values[f"cosine_{finetuner.scoring}"] == pytest.approx(score)


def test_a_later_loss_that_is_none_is_no_obstacle(fitted, tmp_path):
    finetuner = pickle.loads(pickle.dumps(fitted)).set_params(loss="triplett")
    finetuner.save_pretrained(tmp_path / "saved")
    assert "loss:" not in (tmp_path / "saved" / "README.md").read_text()
