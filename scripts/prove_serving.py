"""Kill a receiver with SIGKILL at random moments, and see that it kept whatever it had confirmed.

    python scripts/prove_serving.py --kills 30

Every round starts a receiver in a process of its own, sends it studies as a modality does, and
kills it at a random moment. Whatever was answered with success must be in the queue and in a
file with the same content.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from threading import Timer

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.presentation import build_context

from spinemets.serving.inbox import Folders, Inbox
from spinemets.serving.receiver import Receiver
from spinemets.serving.settings import LimitSettings, ReceiveSettings
from spinemets.serving.study_queue import StudyQueue

SAMPLES = Path(__file__).resolve().parents[1] / "data_samples/dicom"
LONGEST_S = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--receive", nargs=2, metavar=("FOLDER", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        receive(Path(options.receive[0]), int(options.receive[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        prove(Path(folder), options.kills, random.Random(options.seed))


def receive(folder: Path, port: int) -> None:
    """Receive until killed."""
    queue = StudyQueue(Folders(folder).queue)
    settings = ReceiveSettings(port=port, callers="any")
    Receiver(settings, Inbox(Folders(folder), queue, LimitSettings(studies=10**6, free_gib=0))).start()
    print("listening", flush=True)
    while True:
        time.sleep(3600)


def prove(folder: Path, kills: int, chance: random.Random) -> None:
    images = [pydicom.dcmread(path) for path in sorted(SAMPLES.rglob("*.dcm"))]
    confirmed: dict[str, str] = {}
    for number in range(kills):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, __file__, "--receive", str(folder), str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            killer = Timer(chance.uniform(0, LONGEST_S), process.kill)
            push(images, number, port, confirmed, killer)
            killer.join()
        lost = missing(folder, confirmed)
        print(f"kill {number + 1}: {len(confirmed)} confirmed so far, {len(lost)} lost", flush=True)
        if lost:
            sys.exit(1)
    print(f"{kills} kills while images were sent: nothing of {len(confirmed)} confirmed images is lost")


def push(images: Sequence[Dataset], number: int, port: int, confirmed: dict[str, str], killer: Timer) -> None:
    """Send the images as studies of this number until the receiver dies, some time after the first."""
    context = build_context(images[0].SOPClassUID, images[0].file_meta.TransferSyntaxUID)
    for turn in range(1000):
        association = AE(ae_title="MODALITY").associate(
            "127.0.0.1", port, contexts=[context], ae_title="SPINEMETS"
        )
        for index, image in enumerate(images):
            image.StudyInstanceUID = f"1.2.3.{number}.{turn}"
            image.SOPInstanceUID = f"1.2.3.{number}.{turn}.{index}"
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            status = association.send_c_store(image) if association.is_established else Dataset()
            if status.get("Status") != 0:
                return
            confirmed[image.SOPInstanceUID] = checksum(image)
            if killer.ident is None:
                killer.start()
        association.release()


def checksum(image: Dataset) -> str:
    return hashlib.sha256(image.PixelData + str(image.StudyInstanceUID).encode()).hexdigest()


def missing(folder: Path, confirmed: dict[str, str]) -> set[str]:
    """The confirmed instances of which the file or the queue's note is not there as it should be."""
    queue = StudyQueue(Folders(folder).queue)
    noted = sum(study.images for study in queue.studies())
    queue.close()
    kept = {}
    for path in Folders(folder).inbox.rglob("study-*/*.dcm"):
        image = pydicom.dcmread(BytesIO(path.read_bytes()))
        kept[str(image.SOPInstanceUID)] = checksum(image)
    lost = {uid for uid, value in confirmed.items() if kept.get(uid) != value}
    return lost if noted >= len(confirmed) else set(confirmed)


if __name__ == "__main__":
    main()
