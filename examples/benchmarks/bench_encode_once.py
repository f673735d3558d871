"""A cold `AdapterFinetuner.fit` against one encode of the same distinct texts.

The model is loaded and nothing encoded; the peer is `SentenceTransformer.encode` at its
defaults, at the same precision. The pairs are interleaved in one run.
"""

import statistics
from contextlib import nullcontext
from functools import partial

import numpy as np
from _common import (
    counted_rows,
    distinct_texts,
    first_queries,
    interleave,
    load_ten_k,
    make_parser,
    median_ratio,
    model_path,
    precisions,
    report,
    start,
)

from skembft import AdapterFinetuner, SentenceEncoder


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--quick", action="store_true", help="only 100 queries")
    args = start(parser)
    import torch
    from sentence_transformers import SentenceTransformer

    train, _ = load_ten_k(args)
    if args.quick:
        train = first_queries(train, 100)
    texts = distinct_texts(train)
    model = SentenceTransformer(model_path(), device="cpu")
    model.encode(texts[:4])  # first calls set things up
    rows_encoded = {}

    def encode(name, autocast):
        with counted_rows() as count, autocast():
            model.encode(texts)
        rows_encoded[name] = count["rows"]

    def fit(name, encoder):
        encoder.clear()
        with counted_rows() as count:
            AdapterFinetuner(encoder, random_state=0).fit(train.queries, train.relevant)
        rows_encoded[name] = count["rows"]

    autocasts = {
        "float32": nullcontext,
        "auto": partial(torch.autocast, "cpu", torch.bfloat16),
    }
    encoders, functions = {}, {}
    for precision in precisions():
        encoder = SentenceEncoder(model_path(), precision=precision, device="cpu")
        encoder.transform(texts[:4])
        encoders[precision] = encoder
        for name, function, argument in (
            ("SentenceTransformer.encode", encode, autocasts[precision]),
            ("AdapterFinetuner.fit", fit, encoder),
        ):
            name = name, precision
            functions[name] = partial(function, name, argument)
    seconds = interleave(functions, args.repeats)

    reference = model.encode(texts, normalize_embeddings=True)
    encode_float32 = seconds["SentenceTransformer.encode", "float32"]
    rows = []
    for (what, precision), values in seconds.items():
        row = {
            "": f"{what}, {precision}",
            "seconds": statistics.median(values),
            "× encode, same precision": median_ratio(
                values, seconds["SentenceTransformer.encode", precision]
            ),
            "× encode, float32": median_ratio(values, encode_float32),
            "rows encoded": rows_encoded[what, precision],
        }
        if what == "AdapterFinetuner.fit":
            vectors = encoders[precision].transform(texts)
            row["lowest cosine"] = float(np.sum(vectors * reference, axis=1).min())
        rows.append(row)
    title = "A cold fit in units of one encode of its distinct texts"
    report(
        args,
        title,
        rows,
        texts=f"{len(texts)} distinct",
        rounds=f"{args.repeats}, interleaved; medians, of ratios too",
    )


if __name__ == "__main__":
    main()
