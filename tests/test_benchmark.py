"""The benchmark measures every stage of a real run, and compares like with like."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pretended_gpu import pretended_gpu
from spinemets import inference
from spinemets.benchmark import CASES, BenchmarkPlan, machine, run, run_benchmark
from spinemets.benchmark.synthetic import Case, write_study
from spinemets.bundles import load_bundle, reading_checksum
from spinemets.channels import Channel
from spinemets.cli import main, spinemets
from spinemets.config import DetectionConfig, SegmentationConfig
from spinemets.errors import NoUsableInputError
from spinemets.execution import FusedNetwork, parameter_shapes
from spinemets.graphs import ReplayedNetwork
from spinemets.intensity import LESION_INPUTS
from spinemets.network import NetworkDefinition

TINY = Case((6, 56, 88), (4.0, 1.0, 1.0), ("T1w", "T2w", "STIR"))
STAGES = ("read", "preprocess", "network", "postprocess", "write")
CONFIG = DetectionConfig(segmentation=SegmentationConfig(device="cpu", precision="float32"))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(machine, "_MATRIX", 64)
    monkeypatch.setattr(machine, "_COPIED_BYTES", 2**16)
    monkeypatch.setattr(run, "_SCALING_ROWS", (8, 80))
    monkeypatch.setattr(run, "_SCALING_COLUMNS", 16)
    monkeypatch.setattr(run, "CASES", {"tiny": TINY})


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory):
    """A bundle of two small networks with random weights that label little."""
    folder = tmp_path_factory.mktemp("bundles") / "small"
    random = torch.Generator().manual_seed(9)
    definitions = {
        "anatomy": NetworkDefinition(1, 4, len(Channel), (4, 6, 8)),
        "lesion": NetworkDefinition(len(LESION_INPUTS), 4, 1, (4, 6, 8)),
    }
    metadata = {
        "version": "0.1.0", "monai_version": "1.6.1", "pytorch_version": "2.13.0", "task": "t",
        "description": "d", "network_data_format": {},
        "spinemets": {
            "format": 1,
            "network": {"type": "spinemets-cascade", **{k: asdict(d) for k, d in definitions.items()}},
            "spacing_mm": {"in_plane": 1.0, "slice_min": 2.5, "slice_target": 3.0},
            "channels": [channel.name.lower() for channel in Channel],
            "weightings": ["T1", "T2"],
        },
    }  # fmt: skip
    for child in ("configs", "models"):
        (folder / child).mkdir(parents=True)
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    weights = {
        f"{part}.{name}": 0.2 * torch.randn(shape, generator=random)
        for part, definition in definitions.items()
        for name, shape in parameter_shapes(definition).items()
    }
    # Mostly background, as in a scan: four numbers, one for each of the folded pixels.
    weights["anatomy.body.output_block.conv.conv.bias"][:4] = 4.0
    save_file(weights, folder / "models/model.safetensors")
    return folder


@pytest.fixture(scope="module")
def bundle(bundle_folder):
    return load_bundle(bundle_folder, reading_checksum(bundle_folder))


def test_every_stage_of_a_study_is_measured_and_compared_with_the_peak_of_the_same_run(bundle):
    result = run_benchmark(bundle, CONFIG, BenchmarkPlan(("tiny",), repeats=1), lambda _: None)
    case, peak = result["cases"]["tiny"], result["peak"]
    seconds = case["seconds"]
    assert all(seconds[stage] > 0 for stage in STAGES)
    assert seconds["total"] == pytest.approx(sum(seconds[stage] for stage in STAGES))
    # Three series, once through each of two networks.
    assert len(case["network_shapes"]) == 6
    assert case["share_of_matmul_peak"] == pytest.approx(
        case["gflop"] / seconds["network"] / peak["matmul_gflop_per_s"]
    )
    assert case["gbytes"] > 0
    assert case["peak_memory_mb"] > 10
    ratio = result["peers"]["seconds"]["monai_sliding_window"] / seconds["network"]
    assert result["ratios"]["monai_sliding_window"] == pytest.approx(ratio)
    # In float32 the fast execution and MONAI's module are the same function.
    assert result["agreement_with_float32"]["argmax"] > 0.9999
    assert len(result["scaling"]["voxels"]) == 2
    json.dumps(result)


def recorded(run, image, condition):
    """Stands in for a CUDA graph, whose replay shows no operation: the same logits each time."""
    logits = run(image, condition)
    return lambda *_: logits.clone()


def test_a_gpu_is_measured_as_a_processor_is(bundle, monkeypatch):
    monkeypatch.setattr(inference, "ReplayedNetwork", partial(ReplayedNetwork, record=recorded))
    settings = SegmentationConfig(device="cuda", precision="float32")
    with pretended_gpu(monkeypatch):
        plan = BenchmarkPlan(("tiny",), repeats=1)
        result = run_benchmark(bundle, DetectionConfig(segmentation=settings), plan, lambda _: None)
    assert (result["machine"]["device"], result["machine"]["processor"]) == ("cuda", "pretended")
    assert result["cases"]["tiny"]["peak_memory_mb"] == 256
    # A study's work is that of the runs, not of their replays; only a processor has ways to do with less.
    monkeypatch.setattr(FusedNetwork, "_prepare_replacements", lambda *_: None)
    on_cpu = run_benchmark(bundle, CONFIG, BenchmarkPlan(("tiny",), repeats=1, peers=False), lambda _: None)
    assert result["cases"]["tiny"]["gflop"] == pytest.approx(on_cpu["cases"]["tiny"]["gflop"], rel=0.01)
    assert result["ratios"]["monai_sliding_window"] > 0
    assert result["agreement_with_float32"]["argmax"] > 0.9999
    json.dumps(result)


def test_a_given_study_is_measured_alone_and_the_table_and_the_json_tell_of_it(
    bundle_folder, tmp_path, capsys
):
    write_study(Case(TINY.shape, TINY.spacing_mm), tmp_path / "exam")
    arguments = ["benchmark", str(tmp_path / "exam"), "--device", "cpu", "--repeats", "1", "--no-peers"]
    arguments += ["--model", str(bundle_folder), "--trust-model", reading_checksum(bundle_folder)]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--json", str(tmp_path / "speed.json")])
    assert stopped.value.code == 0
    result = json.loads((tmp_path / "speed.json").read_text())
    assert list(result["cases"]) == [str(tmp_path / "exam")]
    assert "ratios" not in result
    printed = capsys.readouterr().out
    assert str(tmp_path / "exam") in printed
    assert "postprocess" in printed


def test_what_was_measured_is_told_also_where_no_file_can_be_written(bundle_folder, tmp_path, capsys):
    write_study(Case(TINY.shape, TINY.spacing_mm), tmp_path / "exam")
    (tmp_path / "file").touch()
    arguments = ["benchmark", str(tmp_path / "exam"), "--device", "cpu", "--repeats", "1", "--no-peers"]
    arguments += ["--model", str(bundle_folder), "--trust-model", reading_checksum(bundle_folder)]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--json", str(tmp_path / "file/speed.json")])
    assert stopped.value.code == 9
    assert "postprocess" in capsys.readouterr().out


def test_the_command_line_offers_every_case_there_is():
    options = {option.name: option for option in spinemets.commands["benchmark"].params}
    assert tuple(options["cases"].type.choices) == tuple(CASES)


def test_the_cases_are_the_usual_sizes():
    assert (CASES["lumbar"].shape, CASES["lumbar"].spacing_mm) == ((15, 512, 512), (4.0, 0.6, 0.6))
    assert len(CASES["three sequences"].weightings) == 3
    assert CASES["whole spine"].shape == (20, 512, 1200)


def test_two_studies_in_one_path_are_refused(bundle, tmp_path):
    for name in ("a", "b"):
        write_study(Case(TINY.shape, TINY.spacing_mm), tmp_path / name)
    with pytest.raises(NoUsableInputError, match="holds 2 studies"):
        run_benchmark(bundle, CONFIG, BenchmarkPlan((), (Path(tmp_path),), 1), lambda _: None)


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).resolve().parents[1] / "scripts" / "benchmark.py"
    spec = importlib.util.spec_from_file_location("benchmark_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_comparison_with_nnunet_is_refused_where_the_cores_differ(script):
    own = {"machine": {"threads": 2}, "cases": {"lumbar": {"seconds": {"network": 1.5}}}}
    theirs = {"threads": 2, "mirroring": False, "seconds": 60.0}
    assert "nnU-Net without mirroring 60.0 s, 40 times as long" in script.comparison(own, theirs)
    assert "not comparable" in script.comparison(own, {**theirs, "threads": 1})


def test_nnunet_is_given_the_volume_of_the_lumbar_case(script):
    assert sorted(script.LUMBAR) == sorted(CASES["lumbar"].shape)
