"""The arm of concepts: memories by what they are about, the newest of each concept."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from polymem.domain.model import TenantId
from polymem.domain.query import MemoryFilter
from polymem.ports.search import ArmHit
from polymem.storage.conditions import NEWEST_OF_CONCEPT
from polymem.storage.rows import to_json
from polymem.storage.sqlite.index_documents import parse_numbers
from polymem.storage.sqlite.vectors import Behind, TenantIndex

_NEWEST: Final = (
    "SELECT k.value, (SELECT group_concat(doc_no) FROM (SELECT c.doc_no FROM memory_concepts AS c"
    "  WHERE c.tenant_id = :tenant AND c.space_id = s.value AND c.concept = k.value"
    "  ORDER BY c.memory_id DESC LIMIT :most))"
    " FROM json_each(:keys) AS k CROSS JOIN json_each(:spaces) AS s"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptQuery:
    """One call of `SearchIndex.conceptual`, as a unit of reading."""

    tenant_id: TenantId
    weights: Mapping[str, float]
    where: MemoryFilter
    limit: int

    def __call__(self, connection: sqlite3.Connection, index: TenantIndex) -> tuple[ArmHit, ...] | Behind:
        """The best memories, or that the index has to catch up first."""
        view = index.view(connection, self.where)
        if view is None or isinstance(view, Behind):
            return view or ()
        asked = {
            "tenant": self.tenant_id,
            # Sums of floats depend on their order: that of the keys is the same on every storage.
            "keys": to_json(sorted(self.weights)),
            "spaces": to_json(sorted(self.where.spaces)),
            "most": NEWEST_OF_CONCEPT,
        }
        scores, is_found = np.zeros(len(view.passes)), np.zeros(len(view.passes), dtype=np.bool_)
        for key, listed in connection.execute(_NEWEST, asked):
            positions = np.searchsorted(view.doc_nos, parse_numbers(listed))
            scores[positions] += self.weights[key]
            is_found[positions] = True
        found = np.flatnonzero(is_found & view.passes)
        return view.best(found, scores[found], limit=self.limit)
