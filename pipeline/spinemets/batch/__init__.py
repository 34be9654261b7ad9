"""Many studies in one run: each ends as done, failed or skipped, and none stops the others.

A study's files go to a temporary folder and get their name in one step, so a result folder
is complete or not there. ``batch.jsonl`` is the truth of an output folder; the tables and the
index page are made from it. Knows nothing of how a study is analysed.
"""

from spinemets.batch.engine import Limits, SideBySide
from spinemets.batch.manifest import ManifestRow, manifest_text
from spinemets.batch.merge import merge_batches
from spinemets.batch.planning import PlannedStudy, Shard, plan_batch, study_key
from spinemets.batch.privacy import conceal, settle_names
from spinemets.batch.ray_engine import RayCluster
from spinemets.batch.records import RECORDS_NAME, BatchRecord, RecordBook, Stage, Stamp, State, read_records
from spinemets.batch.run import Again, ModelSource, Todo, Watcher, run_batch, what_to_do
from spinemets.batch.stamps import stamp_of
from spinemets.batch.tables import FINDINGS_NAME, INDEX_NAME, SUMMARY_NAME, write_tables
from spinemets.batch.tally import Tally
from spinemets.batch.workers import usable_processors

__all__ = [
    "FINDINGS_NAME",
    "INDEX_NAME",
    "RECORDS_NAME",
    "SUMMARY_NAME",
    "Again",
    "BatchRecord",
    "Limits",
    "ManifestRow",
    "ModelSource",
    "PlannedStudy",
    "RayCluster",
    "RecordBook",
    "Shard",
    "SideBySide",
    "Stage",
    "Stamp",
    "State",
    "Tally",
    "Todo",
    "Watcher",
    "conceal",
    "manifest_text",
    "merge_batches",
    "plan_batch",
    "read_records",
    "run_batch",
    "settle_names",
    "stamp_of",
    "study_key",
    "usable_processors",
    "what_to_do",
    "write_tables",
]
