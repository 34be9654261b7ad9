"""What scripts say of a path that is not there, and of a number that means nothing."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("benchmark", ("compare", "{}", "{}")),
        ("benchmark", ("nnunet", "-o", "{}/measured.json")),
        ("cold_start", ("{}",)),
        ("draw_formats", ("{}", "{}", "{}")),
        ("register_bundle", ("{}",)),
        ("write_detect_config", ("{}/../file/detect.yaml",)),
        ("make_data_samples", ("{}/../file",)),
    ],
)
def test_a_path_that_is_not_there_is_told_in_a_line_with_exit_code_2(
    script, arguments, tmp_path, monkeypatch, capsys
):
    module = importlib.import_module(script)
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.argv", [script, *(word.format(tmp_path / "nowhere") for word in arguments)])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "rror: " in last
    assert str(tmp_path) in last


def test_no_threads_at_all_are_refused_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train", "x.yaml", "--output", str(tmp_path), "--threads", "0"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("train").main()
    assert ended.value.code == 2
    assert "--threads must be 1 or more" in capsys.readouterr().err
