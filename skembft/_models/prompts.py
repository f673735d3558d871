"""Prompts of queries and documents: the given, or the model's own."""


def choose_prompt(prompts, given, role):
    """Return the prompt of "query" or "document": the given, the model's own, or ""."""
    if given is not None:
        return given
    names = ["query"] if role == "query" else ["document", "passage", "corpus"]
    return next((prompts[name] for name in names if prompts.get(name)), "")
