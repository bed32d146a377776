"""Places of workers: the GPUs that the driver tells of, as far as they may be used, and cores."""

from __future__ import annotations

from pathlib import Path

import pytest
import work
from gpus import NAME, put_gpus, put_program

from pipelines.errors import ConfigError
from pipelines.execution import local, slots
from pipelines.execution.engine import CrewSettings, Piece
from pipelines.execution.slots import Gpu, are_gpus, choose, cpu_slots, gpus

VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "TF_FORCE_GPU_ALLOW_GROWTH"),
    *("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
)


@pytest.fixture
def sixteen_cores(monkeypatch):
    monkeypatch.setattr(slots, "num_cores", lambda: 16)


def names(found) -> list[str]:
    return [slot.name for slot in found]


def seen_by_worker(slot) -> dict[str, str | None]:
    """Start a worker in a slot and ask what it was started with."""
    with local.open_crew(work.Doing(work.environment), CrewSettings([slot])) as crew:
        return crew.call(Piece("a", VARIABLES))


def test_gpus_are_those_that_the_driver_tells_of(two_gpus):
    assert gpus() == [Gpu(0, "0", NAME), Gpu(1, "1", NAME)]


def test_gpus_on_a_machine_without_are_none(no_gpu):
    assert gpus() == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1,0", [Gpu(0, "1", NAME), Gpu(1, "0", NAME)]),
        (" 1 ", [Gpu(0, "1", NAME)]),
        ("0,5,1", [Gpu(0, "0", NAME)]),
        ("1,-1,0", [Gpu(0, "1", NAME)]),
        ("GPU-8932f937-d72c", [Gpu(0, "GPU-8932f937-d72c", "")]),
        *((text, []) for text in ("-1", "", "5", "-1,0")),
    ],
)
def test_gpus_are_those_that_this_process_may_use(visible, expected, two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == expected


def test_gpus_that_may_be_used_and_are_not_there_are_none(no_gpu, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937-d72c")
    assert gpus() == []


@pytest.mark.parametrize("answer", ["exit 9", "exec sleep 60"])
def test_gpus_without_an_answer_are_the_devices_that_the_system_has(answer, tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "_ANSWER_S", 0.5)
    put_program(tmp_path, monkeypatch, answer)
    devices = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    assert sorted(gpu.visible for gpu in gpus()) == sorted(devices)


def test_choose_auto_takes_every_gpu_and_one_worker_each(two_gpus):
    found = choose("auto", None, 2)
    assert names(found) == names(choose("gpu", None, 2)) == ["gpu:0", "gpu:1"]
    assert are_gpus(found)


def test_choose_auto_without_gpus_takes_cores(no_gpu, sixteen_cores):
    found = choose("auto", None, 2)
    assert names(found) == [f"worker {i}" for i in range(1, 9)]
    assert not are_gpus(found)


@pytest.mark.parametrize(
    ("workers", "threads", "expected"), [(None, 2, 8), (None, 5, 3), (None, 64, 1), (5, 64, 5)]
)
def test_choose_cpu_has_workers_of_so_many_cores(
    workers, threads, expected, two_gpus, sixteen_cores
):
    found = choose("cpu", workers, threads)
    assert len(found) == expected
    assert not are_gpus(found)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("gpu:0", ["gpu:0"]), ("gpu:1,0", ["gpu:1", "gpu:0"]), ("gpu:1,1", ["gpu:1"])],
)
def test_choose_gpus_by_number(asked, expected, two_gpus):
    assert names(choose(asked, None, 2)) == expected


def test_choose_counts_gpus_among_those_that_may_be_used(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    (slot,) = choose("gpu:0", None, 2)
    assert slot.environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_choose_fewer_workers_than_gpus_takes_the_first(two_gpus):
    assert names(choose("auto", 1, 2)) == ["gpu:0"]
    assert names(choose("gpu:1,0", 1, 2)) == ["gpu:1"]


@pytest.mark.parametrize(
    ("asked", "workers", "message"),
    [
        ("gpu:5", None, "devices gpu:5: no gpu:5 here, there are 2 GPUs; choose others or --dev"),
        ("gpu:0,2", None, "devices gpu:0,2: no gpu:2 here, there are 2 GPUs"),
        ("auto", 3, "workers 3: there are 2 GPUs, and each has one worker; give fewer, or --dev"),
        ("gpu:1", 2, "workers 2: there is 1 GPU, and each has one worker"),
        ("gpu:x", None, "devices 'gpu:x': expected auto, cpu, gpu or gpu:0,1"),
    ],
)
def test_choose_what_is_not_there_is_a_usage_error(asked, workers, message, two_gpus):
    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        choose(asked, workers, 2)
    assert caught.value.is_usage


@pytest.mark.parametrize("asked", ["gpu", "gpu:0"])
def test_choose_gpu_without_one_is_a_usage_error(asked, no_gpu):
    with pytest.raises(ConfigError, match=rf"devices {asked}: no .* here, there are no GPUs; ch"):
        choose(asked, None, 2)


def test_worker_on_a_gpu_sees_that_one_alone(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = [seen_by_worker(slot) for slot in choose("auto", None, 2)]
    assert [seen["CUDA_VISIBLE_DEVICES"] for seen in found] == ["0", "1"]
    for seen in found:
        assert {key: seen[key] for key in VARIABLES[1:]} == {
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            **dict.fromkeys(VARIABLES[2:], "1"),
        }


def test_worker_on_the_cpu_sees_no_gpu_and_has_one_thread_for_numpy(two_gpus):
    (slot,) = cpu_slots(1)
    assert seen_by_worker(slot) == {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_FORCE_GPU_ALLOW_GROWTH": None,
        **dict.fromkeys(VARIABLES[2:], "1"),
    }


@pytest.mark.parametrize("devices", ["auto", "gpu", "gpu:0,2"])
def test_choose_gpus_of_several_models_is_an_error_that_names_them(devices, tmp_path, monkeypatch):
    put_gpus(tmp_path, monkeypatch, ("A100", "A100", "L4"))
    with pytest.raises(ConfigError, match=r"of several models \(gpu:0 A100, .*gpu:2 L4\), whose"):
        choose(devices, None, 2)
    assert names(choose("auto", 2, 2)) == names(choose("gpu:0,1", None, 2)) == ["gpu:0", "gpu:1"]


def test_gpus_named_by_cudas_own_numbers_have_no_name_where_models_differ(tmp_path, monkeypatch):
    put_gpus(tmp_path, monkeypatch, ("L4", "A100"))
    assert [gpu.name for gpu in gpus()] == ["L4", "A100"]
    (slot,) = choose("gpu:1", None, 2)
    assert slot.environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert [gpu.name for gpu in gpus()] == ["", ""]
    assert "CUDA_DEVICE_ORDER" not in choose("gpu:1", None, 2)[0].environment
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert [gpu.name for gpu in gpus()] == ["A100", "L4"]


def test_choose_gpus_whose_models_nobody_knows_are_taken(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-8932f937-d72c")
    assert names(choose("gpu", None, 2)) == ["gpu:0", "gpu:1"]
