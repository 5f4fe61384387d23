"""Test that two processes which share every step train the same weights as one process that accumulates gradients."""

from __future__ import annotations

import csv
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nndiff import checkpoint
from nndiff.checkpoint import LATEST
from nndiff.training import journal, new_run, ranks
from nndiff.training.run import train
from tests.training.programs import ROOT, TORCHRUN, environment, program
from tests.training.tiny import NAME, prepare, request, tiny_plan

SAME = ("epoch", "step", "loss", "score", "psnr", "baseline_psnr", "learning_rate", "gradient_norm")


def rows(folder: Path) -> list[dict[str, float]]:
    with open(folder / "progress.csv", newline="") as stream:
        return [{name: float(row[name]) for name in SAME} for row in csv.DictReader(stream)]


def test_two_ranks_of_one_batch_are_one_rank_that_accumulates_two(tmp_path, roots, monkeypatch) -> None:
    """Fold all: several validation cases, shared out too."""
    plan = tiny_plan(training_steps=4, batch_size=1, accumulate=2)
    prepare(tmp_path, plan, masked=(1,))
    command = [*TORCHRUN, "-m", "nndiff.cli.train", "1", "bridge", "all", "-device", "cpu", "-np", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment()
    )
    monkeypatch.setattr(journal, "curves", lambda path, *_: path.touch())
    monkeypatch.setattr(journal, "slices", lambda path, *_: path.touch())
    alone = train(request(tmp_path, plan, fold="all", results=tmp_path / "alone" / NAME))
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    shared = roots.results / NAME / "bridge" / "fold_all"

    assert out.count("step 4/4") == 1  # one rank speaks
    assert out.count("Trained: ") == 1
    assert (shared / "log.txt").read_text().count("step 4/4") == 1
    assert len(rows(shared)) == len(rows(alone)) == 4
    for one, other in zip(rows(shared), rows(alone), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    together, lonely = (checkpoint.load(folder / LATEST) for folder in (shared, alone))
    assert together.run == lonely.run
    assert together.optimizer["state"].keys() == lonely.optimizer["state"].keys()
    for part in ("weights", "ema"):
        for name, value in getattr(together, part).items():
            assert not name.startswith("module.")
            torch.testing.assert_close(value, getattr(lonely, part)[name], rtol=1e-4, atol=1e-4)


def test_after_a_rank_has_died_all_begin_again_at_the_last_checkpoint(tmp_path, roots, monkeypatch) -> None:
    """The words are those of the first start: it goes on without --c, and keeps the seed."""
    plan = tiny_plan(training_steps=4, batch_size=1, accumulate=2)
    prepare(tmp_path, plan)
    script = program(
        tmp_path,
        'step == 3 and (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0")',
        "os.kill(os.getpid(), signal.SIGKILL)",
        *("-np", "0", "--seed", "5", "--no_tune"),
        before="new_run.epoch_steps = lambda _: 2",
    )
    command = [*TORCHRUN, "--max-restarts=1", str(script)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    assert done.returncode == 0, done.stdout
    monkeypatch.setattr(journal, "curves", lambda path, *_: path.touch())
    monkeypatch.setattr(journal, "slices", lambda path, *_: path.touch())
    monkeypatch.setattr(new_run, "epoch_steps", lambda _: 2)
    alone = train(request(tmp_path, plan, fold="all", results=tmp_path / "alone" / NAME, seed=5))
    found, wanted = (
        checkpoint.load(folder / LATEST) for folder in (roots.results / NAME / "bridge" / "fold_all", alone)
    )
    assert found.run == wanted.run
    log = (roots.results / NAME / "bridge" / "fold_all" / "log.txt").read_text()
    assert log.count("step 2/4") == 1, "what was finished is not repeated"
    for name, value in found.weights.items():
        torch.testing.assert_close(value, wanted.weights[name], rtol=1e-4, atol=1e-4)


def test_each_life_meets_under_names_of_its_own(monkeypatch) -> None:
    """A torchrun that begins again may keep its store, with the addresses of processes that are gone."""
    kept, seen = torch.distributed.HashStore(), []

    def noted(backend: str, store: torch.distributed.Store, **_: object) -> None:
        seen.append(store.check(["address"]))
        store.set("address", "of a process")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setattr(ranks, "rendezvous", lambda *_, **__: iter([(kept, 0, 2)]))
    monkeypatch.setattr(ranks.distributed, "init_process_group", noted)
    monkeypatch.setattr(ranks.distributed, "barrier", lambda: None)
    monkeypatch.setattr(ranks.distributed, "destroy_process_group", lambda: None)
    for count in ("0", "1", "0"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        with ranks.joined(torch.device("cpu")) as found:
            assert (found.rank, found.world) == (0, 2)
    assert seen == [False, False, True]


def test_a_rank_that_does_not_answer_ends_the_others_in_words(tmp_path, roots) -> None:
    plan = tiny_plan(training_steps=4, batch_size=1, accumulate=2)
    prepare(tmp_path, plan)
    script = program(
        tmp_path,
        'step == 2 and os.environ["RANK"] == "1"',
        "os.kill(os.getpid(), signal.SIGSTOP)",
        *("-np", "0"),
        before="ranks.PATIENCE = timedelta(seconds=10)",
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(
            [sys.executable, script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(**shared, RANK=str(rank), LOCAL_RANK=str(rank)),
        )
        for rank in range(2)
    ]
    out, _ = both[0].communicate()
    both[1].kill()
    both[1].communicate()
    assert both[0].returncode == 1, out
    assert "Another process of this training does not answer" in out
    assert "Traceback" not in out
    fold = roots.results / NAME / "bridge" / "fold_all"
    assert checkpoint.load(fold / LATEST).step == 1, "what was saved is whole"
    assert not (fold / ".lock").exists()


@pytest.mark.parametrize("most", [1, 7, 20, 1000])
def test_gradients_are_averaged_in_buckets_of_any_size(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer with the same gradients three times: the mean over the group is twice each."""
    monkeypatch.setattr(ranks, "BUCKET", most)
    exchanged = []

    def summed(flat: torch.Tensor) -> None:
        exchanged.append(flat.numel())
        flat *= 4

    monkeypatch.setattr(ranks.distributed, "all_reduce", summed)
    monkeypatch.setattr(ranks.distributed, "get_world_size", lambda: 2)
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 2, 2, 2, generator=generator).to(memory_format=torch.channels_last_3d)
    gradients = [torch.randn(5, generator=generator), maps, torch.randn(3, 4, generator=generator), torch.ones(())]
    expected = [2 * gradient for gradient in gradients]
    own = [gradient.clone() for gradient in gradients]
    ranks.Ranks(0, 2).average(own)
    assert all(torch.equal(found, wanted) for found, wanted in zip(own, expected, strict=True))
    assert own[1].is_contiguous(memory_format=torch.channels_last_3d)
    assert sum(exchanged) == sum(gradient.numel() for gradient in gradients)
    assert len(exchanged) == {1: 4, 7: 4, 20: 3, 1000: 1}[most]
    ranks.Ranks(0, 1).average(own)
    assert torch.equal(own[0], expected[0]), "alone nothing is exchanged"
