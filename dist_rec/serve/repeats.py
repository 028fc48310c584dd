"""New events that a client sends once more, since it heard no answer: they are appended once."""

import json
from collections.abc import Mapping

import pyarrow as pa

from dist_rec.serve.columns import same_values
from dist_rec.serve.request_rows import AFTER, Refused
from dist_rec.serve.user_states import Known


def appended_before(known: Known, new: pa.Table, after: Mapping[str, int]) -> bool:
    """Whether `new` events (a row) were appended already: so many more than `after` have come of each sequence, and the
    newest that are kept are these. False where `after` events have come, so that they are to be appended now.

    Raises Refused where neither is so."""
    assert known.events is not None, "somebody is known"
    came = {name: known.came.get(name, 0) for name in after}
    if came == after:
        return False
    columns = [name for name in known.events.column_names if name.partition(".")[0] in after]
    sent = {name.partition(".")[0]: len(new.column(name)[0]) for name in columns}
    if all(came[name] == of + sent[name] for name, of in after.items()) and all(
        _ends_with(known.events.column(name)[0], new.column(name)[0]) for name in columns
    ):
        return True
    expected = f"{json.dumps(came)}, which have come, or the whole history"
    raise Refused(AFTER, expected, json.dumps(after), history_needed=True)


def _ends_with(kept: pa.ListScalar, new: pa.ListScalar) -> bool:
    """The oldest may have left what is kept."""
    count = min(len(kept), len(new))
    ends = (of.values.slice(len(of) - count).to_numpy(zero_copy_only=False) for of in (kept, new))
    return same_values(*ends)
