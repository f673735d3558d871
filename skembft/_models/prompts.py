"""Prompts of queries and documents: the given, or the model's own."""

from collections.abc import Mapping

from skembft._utils.types import Role


def choose_prompt(prompts: Mapping[str, str], given: str | None, role: Role) -> str:
    """Return the prompt of "query" or "document": the given, the model's own, or ""."""
    if given is not None:
        return given
    names = ["query"] if role == "query" else ["document", "passage", "corpus"]
    return next((prompts[name] for name in names if prompts.get(name)), "")
