"""Models whose queries and documents pass through modules of their own."""

from collections.abc import Iterable
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router
from torch import nn

from skembft._models.loading import ends_in_normalize
from skembft._utils.types import Role


def has_routes(model: SentenceTransformer) -> bool:
    return any(isinstance(module, Router) for module in model)


def route_of(model: SentenceTransformer, role: Role) -> SentenceTransformer:
    """The model that texts of a role pass through, with the same modules."""
    if not has_routes(model):
        return model
    modules: list[nn.Module] = []
    for module in model:
        if isinstance(module, Router):
            route = module._resolve_route(task=role, modality="text")
            modules += module.sub_modules[route or ""].children()
        else:
            modules.append(module)
    return _with_modules(model, modules)


def join_routes(
    query: SentenceTransformer, document: SentenceTransformer
) -> SentenceTransformer:
    """A model of the modules of two; prompts and settings are those of the first.

    A Normalize at the end of both is at the end of it, where it is looked for.
    """
    of_queries: list[Any] = list(query)
    of_documents: list[Any] = list(document)
    last = []
    if ends_in_normalize(query) and ends_in_normalize(document):
        last = [of_queries.pop()]
        of_documents.pop()
    router = Router.for_query_document(of_queries, of_documents)
    return _with_modules(query, [router, *last])


def _with_modules(
    model: SentenceTransformer, modules: Iterable[nn.Module]
) -> SentenceTransformer:
    made = SentenceTransformer(
        modules=list(modules),
        device=str(model.device),
        prompts=dict(model.prompts),  # type: ignore[arg-type]  # none is None
        default_prompt_name=model.default_prompt_name,
        trust_remote_code=model.trust_remote_code,
        similarity_fn_name=model.similarity_fn_name,
        truncate_dim=model.truncate_dim,
    )
    return made.eval()
