"""Stage outputs by content: made once, continued after a kill, visible only when complete.

    store = Store()                                     # $RANKDISTILL_HOME or ~/.cache/rankdistill
    output = store.output("sample", identity, make)     # made now, or found
    output.rows()                                       # what `make` appended, verified

`identity` is everything that determines the content and nothing else; its hash is the key. `make`
gets a `Partial`: a folder that is still there after a kill, with shards of rows that are complete
or absent, to which it appends what is missing, or puts all its rows at once.
`python -m rankdistill.store` lists, verifies and removes outputs.

On disk::

    outputs/<key>/                 complete: what the stage wrote, and manifest.json
    partial/<key>/files/           in the making; renamed to outputs/<key> when complete
    partial/<key>/scratch/         checkpoints and the like; removed when complete
    partial/<key>/attempt.json     who makes it, how long it took so far, how the last attempt ended
    locks/<key>.lock               held (flock) by the process that makes it
    .trash/<key>.<pid>-<number>    being removed

Whatever has another name, or is a link, is not the store's and never removed.
"""

from __future__ import annotations

from rankdistill.store.files import home
from rankdistill.store.identity import canonical_json, key_of
from rankdistill.store.outputs import Output, Partial, Store
from rankdistill.store.shards import Shards

__all__ = ["Output", "Partial", "Shards", "Store", "canonical_json", "home", "key_of"]
