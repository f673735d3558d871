"""What full fine-tuning finds, against the bare trainer and the untouched model.

ten-k       LlamaIndex's experiment: train on one 10-K, search another. The untouched
            model, the bare SentenceTransformerTrainer at the engine's settings,
            `EmbeddingFinetuner` at its defaults, which are these, as the guide
            recommends, and with the queries' model trained alone, against the documents
            of a batch or all of them.
docstrings  The losses that the guide recommends, on docstrings with held-out queries.

Rows are printed as they come.
"""

import statistics

from _common import (
    bare_trainer,
    load_ten_k,
    make_parser,
    model_path,
    report,
    start,
    tell,
    timed,
)
from sklearn.model_selection import GroupShuffleSplit

from skembft import EmbeddingFinetuner, SentenceEncoder
from skembft._models.precision import has_bf16
from skembft.datasets import load_docstrings
from skembft.metrics import RetrievalScorer

METRICS = ["ndcg@10", "mrr@10", "hit_rate@5"]
RECOMMENDED = {"batch_size": 32, "epochs": 4, "learning_rate": 5e-5}
QUERY_SIDE = {**RECOMMENDED, "learning_rate": 2e-5, "side": "query"}
LOSSES = {
    "multiple_negatives_ranking": {},
    "multiple_negatives_symmetric_ranking": {},
    "cached_multiple_negatives_ranking": {},
    "gist_embed": {},
    "triplet": {"negatives": "hard"},
    "matryoshka": {},
}


class Trained:
    """A model that Sentence Transformers has trained, as an encoder."""

    def __init__(self, model):
        self.model = model

    def transform(self, queries):
        return self.model.encode_query(queries, normalize_embeddings=True)

    def transform_documents(self, documents):
        return self.model.encode_document(documents, normalize_embeddings=True)


def train_bare(data, seed, bf16):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    model = SentenceTransformer(model_path())
    if not isinstance(model[-1], Normalize):
        model.append(Normalize())
    first = [documents[0] for documents in data.relevant]
    model = bare_trainer(model, data.queries, first, seed=seed, bf16=bf16)
    return Trained(model)


def rows_of(name, fit, score, seeds):
    """Fit with every seed; print and return a row."""
    seconds, values = [], []
    for seed in seeds:
        taken, finetuner = timed(lambda seed=seed: fit(seed))
        seconds.append(taken)
        values.append(score(finetuner))
    row = {"": name, "seconds": statistics.median(seconds)}
    for metric in METRICS:
        row[metric] = statistics.median(value[metric] for value in values)
    if len(seeds) > 1:
        scores = [value[METRICS[0]] for value in values]
        row |= {"lowest": min(scores), "highest": max(scores)}
    tell(row)
    return row


def ten_k(args):
    train, evaluation = load_ten_k(args)
    scorer = RetrievalScorer(METRICS, corpus=evaluation.corpus)

    bf16 = args.precision == "auto" and has_bf16("cpu")

    def finetune(seed, **options):
        finetuner = EmbeddingFinetuner(
            model_path(), random_state=seed, precision=args.precision, **options
        )
        return finetuner.fit(train.queries, train.relevant)

    return compare(
        args,
        lambda finetuner: scorer(finetuner, evaluation.queries, evaluation.relevant),
        {
            "untouched": lambda seed: SentenceEncoder(model_path()),
            "bare trainer": lambda seed: train_bare(train, seed, bf16),
            "defaults": finetune,
            "recommended": lambda seed: finetune(seed, **RECOMMENDED),
            "query side": lambda seed: finetune(seed, **QUERY_SIDE),
            "query side, corpus": lambda seed: finetune(
                seed, negatives="corpus", **QUERY_SIDE
            ),
        },
    )


def docstrings(args):
    data = load_docstrings()
    split = GroupShuffleSplit(1, train_size=600, test_size=400, random_state=0)
    train, test = next(split.split(data.queries, groups=data.queries))
    queries, relevant = (
        [[values[i] for i in rows] for rows in (train, test)]
        for values in (data.queries, data.relevant)
    )
    # retrieved from: the documents of both, and as many others
    known = {*relevant[0], *relevant[1]}
    others = [document for document in data.corpus if document not in known]
    pool = [*relevant[0], *relevant[1], *others[:1000]]
    pool = list(dict.fromkeys(pool))
    scorer = RetrievalScorer(METRICS, corpus=pool)

    def finetune(loss, options, seed):
        finetuner = EmbeddingFinetuner(
            model_path(),
            loss=loss,
            batch_size=32,
            epochs=1,
            learning_rate=5e-5,
            max_seq_length=64,
            random_state=seed,
            precision=args.precision,
            **options,
        )
        return finetuner.fit(queries[0], relevant[0])

    fits = {"untouched": lambda seed: SentenceEncoder(model_path(), max_seq_length=64)}
    for loss, options in LOSSES.items():
        fits[loss] = lambda seed, loss=loss, options=options: finetune(
            loss, options, seed
        )
    return compare(
        args, lambda finetuner: scorer(finetuner, queries[1], relevant[1]), fits
    )


def compare(args, score, fits):
    chosen = args.methods or fits
    return [
        rows_of(name, fit, score, [0] if name == "untouched" else range(args.seeds))
        for name, fit in fits.items()
        if name in chosen
    ]


def main():
    parser = make_parser(__doc__)
    parts = {"ten-k": ten_k, "docstrings": docstrings}
    parser.add_argument("--part", choices=parts, help="only this part")
    methods = ["untouched", "bare trainer", "defaults", "recommended"]
    methods += ["query side", "query side, corpus", *LOSSES]
    parser.add_argument("--methods", nargs="+", choices=methods, help="only these")
    parser.add_argument(
        "--precision",
        choices=["float32", "auto"],
        default="float32",
        help="of all fits",
    )
    parser.add_argument("--seeds", type=int, default=1, help="fits of every row")
    args = start(parser)
    for name, part in parts.items():
        if args.part in (None, name):
            print(f"\n{name}", flush=True)
            told = {"seeds": args.seeds, "precision": args.precision}
            report(args, f"Full fine-tuning, {name}", part(args), **told)


if __name__ == "__main__":
    main()
