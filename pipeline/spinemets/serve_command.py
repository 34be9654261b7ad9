"""``spinemets serve``, ``fetch`` and ``queue``: the commands of a DICOM node."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from spinemets.errors import NetworkError
from spinemets.exit_codes import DONE, EPILOG, code_of
from spinemets.stderr import complain

if TYPE_CHECKING:
    from spinemets.serving.queued_study import QueuedStudy
    from spinemets.serving.remotes import Query
    from spinemets.serving.settings import ServeSettings
    from spinemets.serving.study_queue import StudyQueue

__all__ = ["COMMANDS"]

_Command = Callable[..., int]


def _common(command: _Command) -> _Command:
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Warnings and errors only."),
        click.option("-v", "--verbose", is_flag=True, help="Say more, also why something failed."),
        click.option(
            "--folder",
            metavar="FOLDER",
            type=click.Path(file_okay=False, path_type=Path),
            help="Use this folder, whatever the settings say.",
        ),
        click.argument("settings", metavar="SETTINGS", type=click.Path(path_type=Path)),
    ):
        command = option(command)
    return command


@click.command(epilog=EPILOG)
@click.option("--port", type=click.IntRange(1, 65535), help="Listen on this port.")
@click.option(
    "--check",
    is_flag=True,
    help="Only see whether the settings and the model are sound and every node answers.",
)
@_common
def serve(
    settings: Path, folder: Path | None, port: int | None, check: bool, verbose: bool, quiet: bool
) -> int:
    """Receive studies over the network, analyse them, and send the results.

    SETTINGS is a YAML file; docs/serving.md lists what may stand in it. SIGTERM or Ctrl-C ends
    the server; what it has received or begun goes on when it starts again.
    """
    _set_up_logging(verbose, quiet)
    values = _load(settings, folder, port)
    if check:
        return _check(values)
    from spinemets.serving.server import serve

    with _stopped_by_signals() as stop:
        serve(values, stop)
    return DONE


@click.command(epilog=EPILOG)
@click.option("--study", "study_uids", multiple=True, metavar="UID", help="May be repeated.")
@click.option("--accession", "accession_numbers", multiple=True, metavar="NUMBER", help="May be repeated.")
@click.option(
    "--date", "dates", default="", metavar="RANGE", help="A day or a range, as in 20260101-20260131."
)
@click.option("--description", default="", metavar="PATTERN", help="Of the study, as in '*SPINE*'.")
@click.option("--dry-run", is_flag=True, help="Only say how much there is.")
@_common
@click.argument("node", metavar="NODE")
def fetch(
    settings: Path,
    node: str,
    folder: Path | None,
    dry_run: bool,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Get studies from NODE into the queue of the server of SETTINGS.

    NODE is one of the nodes in SETTINGS. From a DICOMweb node, images come directly, whether the
    server runs or not; it analyses them when it runs. A node of kind dimse sends them to the
    server by C-MOVE, so the server must run and the node must know its AE title.
    """
    _set_up_logging(verbose, quiet)
    values = _load(settings, folder)
    queries = _queries(options)
    from spinemets.serving.inbox import Folders, Inbox
    from spinemets.serving.pulling import pull, studies_of
    from spinemets.serving.remotes import connect

    remote = connect(node, values)
    if dry_run:
        found = tuple(series for query in queries for series in remote.find(query))
        images = sum(series.images for series in found)
        click.echo(f"{len(studies_of(found))} studies, {len(found)} MR series, {images} images")
        return DONE
    failures: list[str] = []
    with _opened(values) as queue:
        inbox = Inbox(Folders(values.folder), queue, values.limits)
        for query in queries:
            pulled = pull(remote, query, queue, inbox, values.limits.studies)
            click.echo(f"{pulled.retrieved} studies fetched, {pulled.known} were here already")
            failures += pulled.failures
    for failure in failures:
        complain(f"error: {failure}")
    return code_of(NetworkError("")) if failures else DONE


@click.command(epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--uids", is_flag=True, help="Also show the UID of each study.")
@click.option("--retry", is_flag=True, help="Let everything that failed be tried again.")
@_common
def queue(
    settings: Path, folder: Path | None, as_json: bool, uids: bool, retry: bool, verbose: bool, quiet: bool
) -> int:
    """Show where the studies of a server stand; it may be running or not."""
    _set_up_logging(verbose, quiet)
    values = _load(settings, folder)
    with _opened(values) as queue:
        if retry:
            click.echo(f"{queue.retry_failed()} to be tried again", err=as_json)
        rows = list(_rows(queue, uids))
    if as_json:
        click.echo(json.dumps({"studies": rows}, indent=2))
        return DONE
    for row in rows:
        sent = ", ".join(
            f"{one['node']} {one['state']}{': ' + one['reason'] if one['reason'] else ''}"
            for one in row["deliveries"]
        )
        parts = [row["study"], row["state"], f"{row['images']} images", row["changed"], row.get("uid", "")]
        click.echo("  ".join(part for part in (*parts, row["reason"], sent) if part))
    click.echo(f"{len(rows)} studies")
    return DONE


COMMANDS = (serve, fetch, queue)
"""What this module adds to the command line."""


def _load(path: Path, folder: Path | None, port: int | None = None) -> ServeSettings:
    """The settings with the command line's own on top."""
    from spinemets.serving.remotes import need_extra
    from spinemets.serving.settings import load_settings

    need_extra()
    values = load_settings(path)
    if folder is not None:
        values = values.model_copy(update={"folder": folder.resolve()})
    if port is not None:
        values = values.model_copy(update={"receive": values.receive.model_copy(update={"port": port})})
    return values


@contextmanager
def _opened(values: ServeSettings) -> Iterator[StudyQueue]:
    from spinemets.serving.inbox import Folders
    from spinemets.serving.study_queue import StudyQueue

    queue = StudyQueue(Folders(values.folder).queue)
    try:
        yield queue
    finally:
        queue.close()


def _check(values: ServeSettings) -> int:
    """Say of every node whether it answers."""
    from spinemets.serving.remotes import connect
    from spinemets.serving.server import prepare
    from spinemets.serving.tls import server_context

    if values.receive.tls is not None:
        server_context(values.receive.tls)
    bundle = prepare(values).bundle
    click.echo(f"model: {bundle.name} {bundle.version}")
    failures = 0
    for name in values.nodes:
        try:
            connect(name, values).check()
            click.echo(f"{name}: answers")
        except NetworkError as error:
            failures += 1
            complain(f"error: {error}")
    return code_of(NetworkError("")) if failures else DONE


def _queries(options: dict[str, Any]) -> list[Query]:
    from spinemets.serving.remotes import Query

    shared = {"dates": options["dates"], "description": options["description"]}
    queries = [Query(study_uid=uid, **shared) for uid in options["study_uids"]]
    queries += [Query(accession_number=number, **shared) for number in options["accession_numbers"]]
    if not queries and any(shared.values()):
        queries = [Query(**shared)]
    if not queries:
        raise click.UsageError("name some of --study, --accession, --date and --description")
    return queries


def _rows(queue: StudyQueue, uids: bool) -> Iterator[dict[str, Any]]:
    deliveries = queue.deliveries()
    for study in queue.studies():
        mine = [one[1:] for one in deliveries if one[0] == study.number]
        yield _row(study, uids) | {
            "deliveries": [
                {"node": node, "state": state, "attempts": attempts, "reason": reason}
                for node, state, attempts, reason in mine
            ]
        }


def _row(study: QueuedStudy, uids: bool) -> dict[str, Any]:
    changed = datetime.fromtimestamp(study.changed, UTC).isoformat(timespec="seconds")
    row = {
        "study": study.key,
        "state": study.state.value,
        "images": study.images,
        "attempts": study.attempts,
        "changed": changed,
        "reason": study.reason,
    }
    return row | ({"uid": study.uid} if uids else {})


def _set_up_logging(verbose: bool, quiet: bool) -> None:
    """Lines with a time on stderr, of this software alone: libraries' lines may quote patients' data."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(logging.Filter("spinemets"))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    logging.getLogger("spinemets").setLevel(level)
    logging.captureWarnings(True)


@contextmanager
def _stopped_by_signals() -> Iterator[Event]:
    """An event that SIGTERM or SIGINT sets; the second of them is not patient any more."""
    stop = Event()

    def handle(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
