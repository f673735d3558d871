"""Which defaults win? One setting of `AdapterFinetuner` at a time, on four data sets.

Prints the gain in nDCG@10 on test queries over the untouched all-MiniLM-L6-v2: the
mean over seeds ± half the distance from the lowest to the highest seed.
"""

import json
import time
import warnings

import numpy as np
from _common import make_parser, report, start
from _retrieval_sets import (
    NAMES,
    add_arguments,
    load_problems,
    make_encoder,
    run_all,
)

from skembft import AdapterFinetuner

SETTINGS = {
    "negatives": ["batch", "random", "hard", "corpus"],
    "side": ["both", "separate"],
    "adapter": ["low_rank", "mlp"],
    "learning_rate": [2e-4, 1e-3],
    "weight_decay": [0.01, 30.0],
    "loss_params": [{"scale": 10.0}, {"scale": 50.0}],
    "batch_size": [32],
    "validation_fraction": [0.1],
    "interpolation": [None],
    "n_iter_no_change": [10],
    "solver": ["closed_form"],
}


def candidates(names):
    yield "base", {}
    for name in names:
        for value in SETTINGS[name]:
            yield f"{name}={value!r}", {name: value}


def gains(args, cache_dir, params, name, seed):
    """Gain on the problems of a data set, and CPU seconds of a fit."""
    warnings.simplefilter("ignore", UserWarning)  # training may not help
    encoder = make_encoder(cache_dir)
    out, seconds = [], []
    for problem in load_problems(args, name, seed):
        params = {**args.base, **params}
        finetuner = AdapterFinetuner(encoder, random_state=seed, **params)
        begin = time.process_time()
        finetuner.fit(*problem.train, corpus=problem.corpus)
        seconds.append(time.process_time() - begin)
        out.append(problem.score(finetuner) - problem.score(encoder))
    return np.mean(out), np.mean(seconds)


def main():
    parser = make_parser(__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--base",
        type=json.loads,
        default={},
        metavar="JSON",
        help="arguments that differ from the defaults in all rows",
    )
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--sets", nargs="+", choices=NAMES, default=NAMES)
    args = start(parser)
    labels, params = zip(*candidates(args.settings), strict=True)
    seeds = range(args.seeds)
    tasks = [(p, name, seed) for p in params for name in args.sets for seed in seeds]
    results = run_all(args, gains, tasks)
    shape = len(labels), len(args.sets), args.seeds
    gain, seconds = (np.reshape(part, shape) for part in zip(*results, strict=True))
    rows = []
    for i, label in enumerate(labels):
        row = {"": label, "mean gain": float(gain[i].mean())}
        for j, name in enumerate(args.sets):
            spread = np.ptp(gain[i, j])
            row[name] = f"{gain[i, j].mean():+.4f} ± {spread / 2:.4f}"
        row["CPU s a fit"] = float(seconds[i].mean())
        rows.append(row)
    base = AdapterFinetuner(**args.base).get_params()
    report(
        args,
        "Gain in nDCG@10 on test queries over the untouched model",
        rows,
        base={name: base[name] for name in args.settings},
        seeds=args.seeds,
    )


if __name__ == "__main__":
    main()
