"""Every way to better retrieval, side by side: what it gains, costs and forgets.

The untouched all-MiniLM-L6-v2, adapters, the model of the queries trained alone, the
whole model, the whole model taken back toward the untouched one, and the vectors of
documents moved over each of these. Prints the gain in nDCG@10 on test queries, the
seconds of a fit, and the change on other data sets, on which nothing was trained: what
the model forgot. `--picture` draws gain against seconds.
"""

import copy
import warnings

import numpy as np
import torch
from _common import make_parser, model_path, report, start, timed
from _retrieval_sets import add_arguments, load_problems, make_encoder, run_all
from finetune_quality import Trained
from situations import situations
from sklearn.frozen import FrozenEstimator

from skembft import AdapterFinetuner, CorpusFinetuner, EmbeddingFinetuner
from skembft.metrics import RetrievalScorer

SETS = (
    "llamaindex-10k, all",
    "Cranfield, 180",
    "docstrings, 500, no corpus",
)
# what is trained: nothing of the model, the model of the queries, all of it
TRAINED = ("adapters", "query encoder", "everything")
FOREIGN = ("cranfield", "docstrings")
BATCH = {"batch_size": 32, "epochs": 4}
SHARE = 0.85


def between(finetuner, share):
    """The weights between the untouched model's and the trained ones."""
    from sentence_transformers import SentenceTransformer

    untouched = SentenceTransformer(model_path())
    model = copy.deepcopy(finetuner.model_)
    with torch.no_grad():
        for mine, theirs in zip(
            model.parameters(), untouched.parameters(), strict=True
        ):
            mine.lerp_(theirs.to(mine), 1 - share)
    return Trained(model)


def ways(encoder, problem, seed, trained):
    """Yield (name, seconds, what ranks)."""
    corpus = problem.corpus

    def fit(finetuner):
        finetuner.set_params(random_state=seed)
        return timed(lambda: finetuner.fit(*problem.train, corpus=corpus))

    def over(name, seconds, fitted):
        more, moved = fit(CorpusFinetuner(FrozenEstimator(fitted)))
        return f"{name}, documents moved", seconds + more, moved

    yield "untouched", 0.0, encoder
    if "adapters" in trained:
        yield "documents moved", *fit(CorpusFinetuner(encoder))
        adapter = fit(AdapterFinetuner(encoder))
        yield "adapter", *adapter
        yield over("adapter", *adapter)
        for negatives in ("batch", "corpus"):
            name = f"adapter, negatives={negatives!r}"
            yield name, *fit(AdapterFinetuner(encoder, negatives=negatives))
    if "query encoder" in trained:
        options = {"side": "query", "learning_rate": 2e-5, **BATCH}
        for negatives in ("batch", "corpus"):
            name = f"query encoder, negatives={negatives!r}"
            finetuner = EmbeddingFinetuner(model_path(), negatives=negatives, **options)
            query_side = fit(finetuner)
            yield name, *query_side
        yield over(name, *query_side)
    if "everything" in trained:
        full = {"learning_rate": 5e-5, **BATCH}
        everything = fit(EmbeddingFinetuner(model_path(), **full))
        yield "everything", *everything
        yield f"everything, {SHARE} of it", everything[0], between(everything[1], SHARE)
        yield over("everything", *everything)
        full |= {
            "validation_fraction": 0.2,
            "evaluation_steps": 0,
            "interpolation": "auto",
        }
        yield "everything, validated", *fit(EmbeddingFinetuner(model_path(), **full))


def foreign_problems(args, home):
    """Queries of other sets, with the documents of these."""
    for name in FOREIGN:
        if not home.lower().startswith(name):
            yield load_problems(args, name, 0)[0]


def run(args, cache_dir, name, seed):
    """Rows of one situation, with the values to compare with."""
    warnings.simplefilter("ignore", UserWarning)  # a way may not help
    torch.set_num_threads(1)
    encoder = make_encoder(cache_dir)
    problem = {p.name: p for p in situations(args, seed)}[name]
    abroad = list(foreign_problems(args, name))
    scorers = [
        (RetrievalScorer("ndcg@10", corpus=p.test_corpus), p.test)
        for p in (problem, *abroad)
    ]
    base, out = None, {}
    for way, seconds, ranker in ways(encoder, problem, seed, args.trained):
        values = np.array([scorer(ranker, *test) for scorer, test in scorers])
        base = values if base is None else base
        gains = values - base
        out[way] = [seconds, gains[0], gains[1:].mean(), values[0]]
        print(f"{name}, seed {seed}: {way} {np.round(out[way], 4)}", flush=True)
    return out


def draw(tables, path):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(
        1, len(tables), figsize=(4.4 * len(tables), 4.2), layout="constrained"
    )
    for ax, (name, table) in zip(np.ravel(axes), tables.items(), strict=True):
        for number, (way, values) in enumerate(table.items()):
            seconds, gain = values[:, 0].mean(), values[:, 1].mean()
            moved = way.endswith("documents moved")
            ax.scatter(
                max(seconds, 0.1),
                gain,
                marker="^" if moved else "o",
                color=f"C{number % 10}",
                label=f"{number} {way}",
            )
            ax.annotate(
                str(number),
                (max(seconds, 0.1), gain),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=8,
            )
        ax.axhline(0, color="grey", linewidth=0.8)
        ax.set(xscale="log", title=name, xlabel="seconds of a fit")
    np.ravel(axes)[0].set_ylabel("gain in nDCG@10")
    handles, labels = np.ravel(axes)[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    fig.savefig(path)


def main():
    parser = make_parser(__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--sets", nargs="+", default=SETS, help="names of situations.py"
    )
    parser.add_argument("--trained", nargs="+", choices=TRAINED, default=TRAINED)
    parser.add_argument("--picture", help="draw gain against seconds into this file")
    args = start(parser)
    tasks = [(name, seed) for name in args.sets for seed in range(args.seeds)]
    results = run_all(args, run, tasks)
    tables = {}
    for (name, _), result in zip(tasks, results, strict=True):
        for way, values in result.items():
            tables.setdefault(name, {}).setdefault(way, []).append(values)
    for name, table in tables.items():
        table |= {way: np.array(values) for way, values in table.items()}
        report(args, name, [row(*item) for item in table.items()], seeds=args.seeds)
    if args.picture:
        draw(tables, args.picture)


def row(way, values):
    """`values`: (seeds, seconds or gain or gain abroad or nDCG@10)."""
    seconds, gain, abroad, value = values.mean(axis=0)
    return {
        "": way,
        "nDCG@10": f"{value:.4f}",
        "gain": f"{gain:+.4f} ± {np.ptp(values[:, 1]) / 2:.4f}",
        "on other sets": f"{abroad:+.4f}",
        "seconds": float(seconds),
    }


if __name__ == "__main__":
    main()
