"""Tables in a page that people write: between two marks stands what a document says, and is put there again on demand.

`<!-- begin: modes-cpu.json latency -->` names a document and one of its tables; `<!-- end -->` ends it.
"""

from __future__ import annotations

import re
from pathlib import Path

from dynamo_genie.bench.study.records import read_study
from dynamo_genie.bench.study.report.document import tables_of
from dynamo_genie.errors import GenieError

_BLOCK = re.compile(r"(<!-- begin: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, results: Path) -> str:
    """Return a page with each of its tables as its document has it now.

    Raises:
        GenieError: A document or a table is not there.
    """

    def fill(block: re.Match[str]) -> str:
        tables = {table.name: table for table in tables_of(read_study(results / block[2]))}
        if block[3] not in tables:
            raise GenieError(f"{block[2]} has no table {block[3]!r}; it has {', '.join(tables)}")
        return f"{block[1]}\n{tables[block[3]].markdown()}\n{block[4]}"

    return _BLOCK.sub(fill, page)
