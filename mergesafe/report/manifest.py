"""``mergesafe-manifest.json``, as far as a report shows it."""

from __future__ import annotations

import msgspec

from mergesafe.errors import RecipeError
from mergesafe.recipe.document import parse_yaml
from mergesafe.recipe.nodes import MapNode, Reporter, ScalarNode
from mergesafe.results.numbers import Integer


class ManifestInput(msgspec.Struct):
    model: str


class ManifestTensor(msgspec.Struct):
    dtype: str
    shape: list[Integer]
    digest: str
    inputs: list[ManifestInput]


class ManifestShard(msgspec.Struct):
    size: Integer


class Manifest(msgspec.Struct, tag_field="kind", tag="manifest"):
    """What a merge wrote about itself."""

    format: Integer
    mergesafe_version: str
    recipe: str
    merge_method: str
    digest: str
    tensors: dict[str, ManifestTensor]
    backend: str = ""
    seed: Integer | None = None
    files_sha256: dict[str, str] = {}
    shards: dict[str, ManifestShard] = {}

    @property
    def inputs(self) -> list[str]:
        """The models that were merged."""
        names = (i.model for tensor in self.tensors.values() for i in tensor.inputs)
        return list(dict.fromkeys(names))

    @property
    def base(self) -> str | None:
        """The base model as the recipe names it; None where it names none or cannot be read."""
        try:
            tree = parse_yaml(self.recipe, Reporter(None))
        except RecipeError:
            return None
        base = tree.get("base_model") if isinstance(tree, MapNode) else None
        return base.text if isinstance(base, ScalarNode) else None
