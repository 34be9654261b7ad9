"""Segmentations lie on the source's grid, in any orientation, from any number of series."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from phantoms import draw_phantom
from spinemets import inference
from spinemets.anatomy import Structure
from spinemets.bundles import SpacingMm, load_bundle, reading_checksum
from spinemets.channels import STRUCTURE_OF_CHANNEL, Channel, condition_vector
from spinemets.config import SegmentationConfig
from spinemets.errors import ModelIncompatibleError
from spinemets.execution import FusedNetwork
from spinemets.findings import Provenance
from spinemets.inference import Engine, EngineReport
from spinemets.intensity import LESION_INPUTS
from spinemets.network import NetworkDefinition, build_network
from spinemets.segmentation import CascadeSegmenter, load_segmenter, read_networks
from spinemets.volume import Grid, Series, Study, Volume, Weighting

CPU = torch.device("cpu")
ANATOMY = NetworkDefinition(1, 4, len(Channel), (4, 6, 8))
LESION = NetworkDefinition(len(LESION_INPUTS), 4, 1, (4, 6, 8))
SPACING = SpacingMm(in_plane=1.0, slice_min=2.5, slice_target=3.0)
PROVENANCE = Provenance("0.0.0", "small", "1.0.0", "0" * 64)
GREY = np.array([0, 50, 100, 150, 240, 200, 25], dtype=np.float32)
"""Of each ``Structure`` in the pictures that ``Reader`` can read."""


class Reader:
    """An anatomy engine that reads each structure off its grey value."""

    device = CPU

    def __init__(self) -> None:
        self.conditions: list[list[float]] = []

    def new_report(self) -> EngineReport:
        return EngineReport("cpu", "float32")

    def run(self, image, condition, _report):
        self.conditions.append(condition[0].tolist())
        grey = (image - image.min()) / (image.max() - image.min()) * GREY.max()
        channels = torch.from_numpy(GREY[STRUCTURE_OF_CHANNEL])[None, :, None, None, None]
        likely = -(((grey - channels) / 5) ** 2)
        # The four regions' bodies look alike; call every body lumbar.
        likely[:, Channel.C2 : Channel.LUMBAR_BODY] -= 50
        return likely


class BrightOrByWeighting:
    """A lesion engine: log odds that depend on the weighting, or on the right half of the image."""

    device = CPU

    def __init__(self, log_odds: dict[Weighting, float] | None = None) -> None:
        self.log_odds = {tuple(condition_vector(w).tolist()): v for w, v in (log_odds or {}).items()}
        self.seen = []

    def new_report(self) -> EngineReport:
        return EngineReport("cpu", "float32")

    def run(self, image, condition, _report):
        self.seen.append(image)
        logits = torch.full_like(image[:, :1], self.log_odds.get(tuple(condition[0].tolist()), -6.0))
        if not self.log_odds:
            logits[:, :, image.shape[2] // 2 + 1 :] = 6.0
        return logits


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def spine():
    return draw_phantom(highest="L2", lowest="L4", spacing_mm=(4.0, 1.0, 1.0)).segmentation


@pytest.fixture(scope="module")
def random_segmenter():
    torch.manual_seed(6)
    engines = tuple(Engine(build_network(d), CPU, torch.float32) for d in (ANATOMY, LESION))
    return CascadeSegmenter(engines, SPACING, SegmentationConfig(), PROVENANCE)


def segmenter_of(anatomy, lesion, **settings):
    return CascadeSegmenter((anatomy, lesion), SPACING, SegmentationConfig(**settings), PROVENANCE)


def series(weighting=Weighting.T2, uid="1", frame="frame"):
    return Series("study", uid, weighting=weighting, frame_of_reference_uid=frame)


def picture(spine, weighting=Weighting.T2, uid="1"):
    return Volume(GREY[spine.anatomy], spine.grid, series(weighting, uid))


def reoriented(volume, order, flips):
    """The same image stored along other axes: its world is unchanged."""
    affine = np.array(volume.grid.affine)[:, [*order, 3]]
    array = volume.intensities.transpose(order)
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
            array = np.flip(array, axis)
    return Volume(array, Grid(array.shape, affine), volume.series)


def stored_like(array, order, flips):
    array = array.transpose(order)
    return np.flip(array, [axis for axis, flip in enumerate(flips) if flip])


def test_a_fall_back_is_told_in_the_cautions_and_in_how_the_networks_ran(monkeypatch, spine):
    class Without:
        """A GPU that has no room, and a processor that has."""

        def __init__(self, network, device, precision):
            self.network, self.there = FusedNetwork(network, CPU, precision), device.type == "cpu"
            self.definition = network.definition

        def run(self, image, condition, _part_bytes=None):
            if not self.there:
                raise torch.OutOfMemoryError
            return self.network.run(image, condition)

    monkeypatch.setattr(inference, "FusedNetwork", Without)
    monkeypatch.setattr(inference, "_free_bytes", lambda _: 1e12)
    engines = [Engine(build_network(d), torch.device("mps"), torch.bfloat16) for d in (ANATOMY, LESION)]
    monkeypatch.setattr(Engine, "device", CPU)  # where this machine can put the images
    segmenter = CascadeSegmenter((engines[0], engines[1]), SPACING, SegmentationConfig(), PROVENANCE)
    found = segmenter.segment(Study("study", (picture(spine),)))
    ran = found.execution
    assert (ran.device, ran.precision, ran.passes) == ("cpu", "float32", 2)
    assert ran.fallbacks == ("mps ran out of memory; this study was computed on the CPU",)
    assert set(ran.fallbacks) <= set(found.cautions)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_everything_lies_on_the_source_s_grid(random_segmenter, order):
    rng = np.random.default_rng(2)
    shape = np.array((5, 40, 52))[list(order)]
    spacing = np.array((4.0, 0.8, 0.9))[list(order)]
    volume = Volume(rng.gamma(2, 50, shape), Grid(tuple(shape), np.diag([*spacing, 1.0])), series())
    found = random_segmenter.segment(Study("study", (volume,)))
    assert found.grid is volume.grid
    for array in (found.anatomy, found.vertebrae, found.lesion_probability):
        assert array.shape == tuple(shape)
    assert found.lesion_probability.dtype == np.float32
    assert 0 <= found.lesion_probability.min() <= found.lesion_probability.max() <= 1
    assert found.volumes == (volume,)


def test_a_structure_is_found_where_it_is(spine):
    found = segmenter_of(Reader(), BrightOrByWeighting()).segment(Study("s", (picture(spine),)))
    for structure in (Structure.VERTEBRAL_BODY, Structure.THECAL_SAC, Structure.DISC):
        assert dice(found.anatomy == structure, spine.anatomy == structure) > 0.9
    assert len(found.evidence) == 3
    assert all(entry.lumbar > 0.9 for entry in found.evidence)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", [(False, True, False), (True, False, True)])
def test_another_storage_order_of_the_same_image_changes_nothing(spine, order, flips):
    segmenter = segmenter_of(Reader(), BrightOrByWeighting())
    volume = picture(spine)
    turned = reoriented(volume, order, flips)
    first, second = (segmenter.segment(Study("s", (v,))) for v in (volume, turned))
    assert (second.anatomy == stored_like(first.anatomy, order, flips)).mean() > 0.999
    assert (second.vertebrae == stored_like(first.vertebrae, order, flips)).mean() > 0.999
    expected = stored_like(first.lesion_probability, order, flips)
    assert np.abs(second.lesion_probability - expected).mean() < 1e-3
    # The lesion is on the patient's right, whichever way the array runs.
    x = turned.grid.to_world(np.argwhere(second.lesion_probability > 0.5))[:, 0]
    assert x.min() > turned.grid.to_world((np.array(turned.grid.shape) - 1) / 2)[0] - 4.0


@pytest.mark.parametrize("flips", [(True, False, False), (False, True, True)])
def test_random_networks_see_the_same_in_another_storage_order(random_segmenter, flips):
    order = (2, 0, 1)
    rng = np.random.default_rng(4)
    grid = Grid((5, 48, 64), np.diag([4.0, 0.8, 0.8, 1.0]))
    volume = Volume(rng.gamma(2, 50, grid.shape), grid, series())
    first, second = (
        random_segmenter.segment(Study("s", (v,))) for v in (volume, reoriented(volume, order, flips))
    )
    assert (second.anatomy == stored_like(first.anatomy, order, flips)).mean() > 0.999
    expected = stored_like(first.lesion_probability, order, flips)
    assert np.abs(second.lesion_probability - expected).max() < 1e-3


def test_lesions_far_from_the_spine_are_not_reported(spine):
    everywhere = BrightOrByWeighting({Weighting.T2: 8.0})
    found = segmenter_of(Reader(), everywhere).segment(Study("s", (picture(spine),)))
    far = np.abs(np.indices(spine.grid.shape)[1] - np.argwhere(spine.anatomy)[:, 1].min()) > 20
    far &= np.indices(spine.grid.shape)[1] < np.argwhere(spine.anatomy)[:, 1].min()
    assert not found.lesion_probability[far].any()
    assert found.lesion_probability[spine.anatomy == Structure.VERTEBRAL_BODY].min() > 0.99


def below_middle(grid):
    """Which voxels lie in the lower half of the image; they are the first along the last axis."""
    return np.broadcast_to(np.arange(grid.shape[2]) < grid.shape[2] // 2, grid.shape)


def test_nothing_is_found_in_an_empty_rim(spine):
    rim = below_middle(spine.grid).copy()
    rim[-1] = False  # so that the networks see it
    half = Volume(np.where(rim, 0, GREY[spine.anatomy] + 10), spine.grid, series())

    class Fooled(Reader):
        def run(self, image, condition, report):
            return super().run(image, condition, report)[..., spine_rows]

    spine_rows = np.maximum(np.arange(spine.grid.shape[2]), spine.grid.shape[2] // 2)
    found = segmenter_of(Fooled(), BrightOrByWeighting({Weighting.T2: 8.0})).segment(Study("s", (half,)))
    assert found.anatomy[~rim].any()
    assert not found.anatomy[rim].any()
    assert not found.vertebrae[rim].any()
    assert found.lesion_probability[~rim].max() > 0.9
    assert not found.lesion_probability[rim].any()


@pytest.mark.parametrize(("axis", "margins"), [(1, (30, 12)), (2, (0, 25)), (0, (1, 2))])
def test_zeros_around_an_image_change_nothing(random_segmenter, axis, margins):
    rng = np.random.default_rng(2)
    shape = (7, 40, 52)
    plain = Volume(rng.gamma(2, 50, shape) + 1, Grid(shape, np.diag([4.0, 0.8, 0.9, 1.0])), series())
    added = [margins if other == axis else (0, 0) for other in range(3)]
    affine = np.array(plain.grid.affine)
    affine[:3, 3] = plain.grid.to_world([-before for before, _ in added])
    padded = np.pad(plain.intensities, added)
    around = Volume(padded, Grid(padded.shape, affine), series())
    first, second = (random_segmenter.segment(Study("study", (volume,))) for volume in (plain, around))
    inner = tuple(slice(a, size - b) for (a, b), size in zip(added, padded.shape, strict=True))
    for name in ("anatomy", "vertebrae", "lesion_probability"):
        np.testing.assert_array_equal(getattr(second, name)[inner], getattr(first, name))
        assert np.count_nonzero(getattr(second, name)) == np.count_nonzero(getattr(first, name))


def test_a_series_that_covers_a_part_is_seen_as_if_it_were_alone(spine):
    full = Volume(GREY[spine.anatomy] + 10, spine.grid, series())
    half = spine.grid.shape[2] // 2
    part = Volume(full.intensities[:, :, :half], Grid((*spine.grid.shape[:2], half), spine.grid.affine),
                  series(Weighting.T1, "2"))  # fmt: skip
    images = []

    class Watched(Reader):
        def run(self, image, condition, report):
            images.append(image)
            return super().run(image, condition, report)

    segmenter = segmenter_of(Watched(), BrightOrByWeighting({Weighting.T2: -1.0, Weighting.T1: 3.0}))
    segmenter.segment(Study("s", (part,)))
    segmenter.segment(Study("s", (full, part)))
    alone, _, among = images
    assert among.shape[-1] == pytest.approx(alone.shape[-1], abs=1)
    rows = min(among.shape[-1], alone.shape[-1]) - 2
    assert (among[..., :rows] - alone[..., :rows]).abs().mean() < 0.05


def test_a_series_has_no_vote_in_its_empty_rim(spine):
    rim = below_middle(spine.grid)
    full = GREY[spine.anatomy] + 10
    reference = Volume(np.where(rim, 0, full), spine.grid, series())
    other = Volume(full, spine.grid, series(Weighting.T1, "2"))
    segmenter = segmenter_of(Reader(), BrightOrByWeighting({Weighting.T2: -8.0, Weighting.T1: 2.0}))
    found = segmenter.segment(Study("s", (reference, other)))
    body = rim & (spine.anatomy == Structure.VERTEBRAL_BODY)
    body[:, :, spine.grid.shape[2] // 2 - 3 :] = False
    assert (found.anatomy[body] == Structure.VERTEBRAL_BODY).mean() > 0.9
    assert np.median(found.lesion_probability[body]) == pytest.approx(1 / (1 + np.exp(-2.0)), abs=0.01)


def test_an_image_without_a_spine_has_no_lesions():
    grid = Grid((5, 40, 40), np.diag([4.0, 1.0, 1.0, 1.0]))
    volume = Volume(np.zeros(grid.shape), grid, series())

    class Nothing(Reader):
        def run(self, image, _condition, _report):
            logits = torch.zeros(1, len(Channel), *image.shape[2:])
            logits[:, Channel.BACKGROUND] = 9
            return logits

    found = segmenter_of(Nothing(), BrightOrByWeighting({Weighting.T2: 8.0})).segment(Study("s", (volume,)))
    assert not found.anatomy.any()
    assert not found.lesion_probability.any()
    assert found.evidence == ()


@pytest.mark.parametrize(
    "weighting", [Weighting.T1, Weighting.T2, Weighting.T2_FS, Weighting.T1_FS_GD, Weighting.UNKNOWN]
)
def test_the_weighting_reaches_both_networks(spine, weighting):
    reader, lesion = Reader(), BrightOrByWeighting({weighting: 3.0})
    found = segmenter_of(reader, lesion).segment(Study("s", (picture(spine, weighting),)))
    assert reader.conditions == [condition_vector(weighting).tolist()]
    assert found.lesion_probability.max() == pytest.approx(1 / (1 + np.exp(-3.0)), abs=1e-4)


def test_the_lesion_network_sees_the_image_and_the_anatomy(spine):
    lesion = BrightOrByWeighting()
    segmenter_of(Reader(), lesion).segment(Study("s", (picture(spine),)))
    planes = dict(zip(LESION_INPUTS, lesion.seen[0][0], strict=True))
    assert float((planes["disc"] > 0.9).sum()) > 100
    assert float(planes["body"].max()) == pytest.approx(1, abs=1e-3)


def test_two_series_vote_where_both_see_and_one_decides_where_it_is_alone(spine):
    """Log odds of 3 and -1 make 1.62; the second series shows the upper half only."""
    full = picture(spine)
    half = np.array(spine.grid.shape) // (1, 1, 2)
    affine = np.array(spine.grid.affine)
    affine[:3, 3] = spine.grid.to_world((0, 0, spine.grid.shape[2] - half[2]))
    upper_grid = Grid(tuple(half), affine)
    upper = Volume(full.intensities[:, :, -half[2] :], upper_grid, series(Weighting.T1, "2"))
    segmenter = segmenter_of(Reader(), BrightOrByWeighting({Weighting.T2: -1.0, Weighting.T1: 3.0}))
    found = segmenter.segment(Study("s", (full, upper)))
    body = found.anatomy == Structure.VERTEBRAL_BODY
    body[:, :, : -half[2]], top = False, body.copy()
    top[:, :, : -half[2] + 3] = False
    low = found.anatomy == Structure.VERTEBRAL_BODY
    low[:, :, -half[2] - 3 :] = False
    both = 3 * np.log((np.exp(-1 / 3) + np.exp(1)) / 2)
    assert np.median(found.lesion_probability[top]) == pytest.approx(1 / (1 + np.exp(-both)), abs=0.01)
    assert np.median(found.lesion_probability[low]) == pytest.approx(1 / (1 + np.exp(1.0)), abs=0.01)
    assert len(found.volumes) == 2
    assert found.volumes[0] is full
    whole, part = found.covered
    assert whole[body | low].all()
    assert not part[:, :, : -half[2] - 1].any()
    assert part[top].all()


@pytest.mark.parametrize("silent", [-4.0, -8.0])
def test_a_lesion_plain_on_one_series_outweighs_two_without_a_trace(spine, silent):
    """As a metastasis does that is bright on STIR and like marrow on T2 and T1; the mean would lose it."""
    full = picture(spine)
    others = [
        Volume(full.intensities, spine.grid, series(weighting, name))
        for weighting, name in ((Weighting.T1, "2"), (Weighting.T2_FS, "3"))
    ]
    odds = {Weighting.T2: silent, Weighting.T1: silent, Weighting.T2_FS: 6.0}
    found = segmenter_of(Reader(), BrightOrByWeighting(odds)).segment(Study("s", (full, *others)))
    body = found.anatomy == Structure.VERTEBRAL_BODY
    assert np.median(found.lesion_probability[body]) > 0.9
    odds[Weighting.T2_FS] = silent
    found = segmenter_of(Reader(), BrightOrByWeighting(odds)).segment(Study("s", (full, *others)))
    assert np.median(found.lesion_probability[body]) == pytest.approx(1 / (1 + np.exp(-silent)), abs=0.01)


def test_two_parts_of_one_series_each_count_over_their_own_extent(spine):
    """Two volumes of one DICOM series share a UID; each must keep its own coverage."""
    full = picture(spine)
    count = spine.grid.shape[2] // 2
    affine = np.array(spine.grid.affine)
    affine[:3, 3] = spine.grid.to_world((0, 0, spine.grid.shape[2] - count))
    part_series = Series("study", "1", description="part", weighting=Weighting.T1,
                         frame_of_reference_uid="frame")  # fmt: skip
    part = Volume(full.intensities[:, :, -count:], Grid((*spine.grid.shape[:2], count), affine), part_series)
    segmenter = segmenter_of(Reader(), BrightOrByWeighting({Weighting.T2: -1.0, Weighting.T1: 3.0}))
    found = segmenter.segment(Study("s", (full, part)))
    low = found.anatomy == Structure.VERTEBRAL_BODY
    low[:, :, -count - 3 :] = False
    assert np.median(found.lesion_probability[low]) == pytest.approx(1 / (1 + np.exp(1.0)), abs=0.01)


def test_a_fallback_of_the_engine_becomes_a_caution(spine):
    class OutOfRoom(Reader):
        def run(self, image, condition, report):
            report.cautions.append("cuda ran out of memory; this study was computed on the CPU")
            return super().run(image, condition, report)

    study = Study("s", (picture(spine), picture(spine, Weighting.T1, "2")))
    found = segmenter_of(OutOfRoom(), BrightOrByWeighting()).segment(study)
    assert [c for c in found.cautions if "out of memory" in c] == [
        "cuda ran out of memory; this study was computed on the CPU"
    ]


def test_the_lesion_network_is_shown_the_spine_and_its_surroundings_only(spine):
    """A scan that is mostly belly: the anatomy's rows plus 32 mm, and no lesion beyond."""
    belly = 120
    image = np.pad(GREY[spine.anatomy], ((0, 0), (0, belly), (0, 0)))
    volume = Volume(image, Grid(image.shape, spine.grid.affine), series())
    lesion = BrightOrByWeighting({Weighting.T2: 8.0})
    found = segmenter_of(Reader(), lesion).segment(Study("s", (volume,)))
    rows = np.nonzero(spine.anatomy.any(axis=(0, 2)))[0]
    shown = lesion.seen[0].shape[3]
    assert np.ptp(rows) < shown <= np.ptp(rows) + 1 + 2 * 32
    assert found.lesion_probability[spine.anatomy.nonzero()].min() > 0.99
    assert found.lesion_probability[:, rows.max() + 40 :].max() < 1e-3


def write_bundle(folder, network=None, channels=None, weights=None, footprints=None):
    torch.manual_seed(9)
    definitions = {"anatomy": ANATOMY, "lesion": LESION}
    described = {
        part: {
            "image_channels": d.image_channels,
            "conditions": 4,
            "outputs": d.outputs,
            "filters": [4, 6, 8],
        }
        for part, d in definitions.items()
    }
    metadata = {
        "version": "0.1.0", "monai_version": "1.6.1", "pytorch_version": "2.13.0", "task": "t",
        "description": "d", "network_data_format": {},
        "spinemets": {
            "format": 1,
            "network": {"type": "spinemets-cascade", **described} if network is None else network(described),
            "spacing_mm": SPACING.model_dump(),
            "channels": channels or [channel.name.lower() for channel in Channel],
            "weightings": ["T1", "T2"],
            **({"footprint_bytes_per_voxel": footprints} if footprints else {}),
        },
    }  # fmt: skip
    stored = {
        f"{part}.{name}": value.detach().half().contiguous()
        for part, definition in definitions.items()
        for name, value in build_network(definition).named_parameters()
    }
    for child in ("configs", "models"):
        (folder / child).mkdir(parents=True)
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    save_file(weights(stored) if weights else stored, folder / "models/model.safetensors")
    return load_bundle(folder, trusted_checksum=reading_checksum(folder))


def test_a_bundle_s_networks_are_built_with_its_weights(tmp_path):
    anatomy, lesion = read_networks(write_bundle(tmp_path / "small"))
    assert (anatomy.definition, lesion.definition) == (ANATOMY, LESION)
    torch.manual_seed(9)
    expected = build_network(ANATOMY).state_dict()
    for name, value in anatomy.named_parameters():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name].half().float())


def test_a_segmenter_says_which_model_it_is_and_where_it_runs(tmp_path):
    bundle = write_bundle(tmp_path / "small")
    segmenter = load_segmenter(bundle, SegmentationConfig(device="cpu", precision="float32"))
    provenance = segmenter.provenance
    assert (provenance.model, provenance.model_version, provenance.model_sha256) == (
        "small", "0.1.0", bundle.sha256,
    )  # fmt: skip
    assert (provenance.device, provenance.precision) == ("cpu", "float32")


@pytest.mark.parametrize(
    ("precision", "anatomy", "lesion"), [("float32", 110.5, 140.5), ("bfloat16", 62.5, None)]
)
def test_each_network_plans_with_its_own_footprint_or_none(tmp_path, precision, anatomy, lesion):
    footprints = {"anatomy": {"bfloat16": 62.5, "float32": 110.5}, "lesion": {"float32": 140.5}}
    told = []

    class Told(Engine):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            told.append((self.definition.outputs, self._footprint_bytes_per_voxel))

    config = SegmentationConfig(device="cpu", precision=precision)
    load_segmenter(write_bundle(tmp_path / "with", footprints=footprints), config, Told)
    load_segmenter(write_bundle(tmp_path / "without"), config, Told)
    assert told == [(10, anatomy), (1, lesion), (10, None), (1, None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": lambda d: {"type": "nnU-Net", **d}}, "nnU-Net"),
        ({"network": lambda d: {"type": "spinemets-cascade", "anatomy": d["anatomy"]}}, "no lesion network"),
        (
            {"network": lambda d: {"type": "spinemets-cascade", **d, "anatomy": {"filters": [4, 6, 8]}}},
            "network definition",
        ),
        ({"channels": [channel.name.lower() for channel in reversed(Channel)]}, "output channels"),
        ({"channels": ["background"]}, "output channels"),
        ({"weights": lambda w: {k: v for k, v in w.items() if k.startswith("anatomy.")}}, "lesion weights"),
        ({"weights": lambda w: {k: v[:1].clone() for k, v in w.items()}}, "anatomy weights"),
    ],
)
def test_a_bundle_of_another_make_is_refused(tmp_path, changes, message):
    with pytest.raises(ModelIncompatibleError, match=message):
        read_networks(write_bundle(tmp_path / "other", **changes))
