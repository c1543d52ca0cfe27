"""The least share of turbo that keeps the goal, against the formulas it comes from; counters that wrap around."""

from __future__ import annotations

from pathlib import Path

import pytest

from peerllm.engine.scheduler import DecodeWork
from peerllm.engine.thread_cap import ThreadCap
from peerllm.guest_config import GuestConfig
from peerllm.serving.power_policy import Power, PowerMode, Speed, next_power, turbo_share
from peerllm.serving.two_speeds import TwoSpeeds
from peerllm.serving.watts import PackageWatts

ECO, TURBO = Speed(20.0, 10.0), Speed(50.0, 40.0)


def expected_s(share: float, wanted_per_s: float) -> float:
    """E[T] of the single server M/M/1 with mu(q) = q mu_H + (1-q) mu_L; endless if it cannot keep up."""
    able = share * TURBO.tokens_per_s + (1 - share) * ECO.tokens_per_s
    return 1 / (able - wanted_per_s) if able > wanted_per_s else float("inf")


def joules(share: float) -> float:
    """Per token: p(q) / mu(q)."""
    assert ECO.watts is not None
    assert TURBO.watts is not None
    watts = share * TURBO.watts + (1 - share) * ECO.watts
    return watts / (share * TURBO.tokens_per_s + (1 - share) * ECO.tokens_per_s)


@pytest.mark.parametrize(
    ("wanted_per_s", "goal_s", "share"),
    [
        (0.0, 0.05, 0.0),  # needs 20 per second, which eco gives
        (10.0, 0.1, 0.0),
        (10.0, 0.04, 0.5),  # needs 35
        (25.0, 0.05, 5 / 6),  # needs 45
        (40.0, 0.1, 1.0),  # needs just what turbo gives
        (49.0, 0.05, 1.0),  # cannot be kept: as near as can be
        (5.0, 1.0, 0.0),
    ],
)
def test_golden_shares(wanted_per_s: float, goal_s: float, share: float) -> None:
    assert turbo_share(ECO, TURBO, wanted_per_s, goal_s) == pytest.approx(share)


@pytest.mark.parametrize("wanted_per_s", [0.0, 3.0, 12.0, 19.0, 30.0, 44.0])
@pytest.mark.parametrize("goal_s", [0.02, 0.03, 0.06, 0.2, 2.0])
def test_share_keeps_the_goal_where_one_does_and_a_smaller_one_would_not(wanted_per_s: float, goal_s: float) -> None:
    share = turbo_share(ECO, TURBO, wanted_per_s, goal_s)
    if share < 1:
        assert expected_s(share, wanted_per_s) <= goal_s * (1 + 1e-9)
    if share > 0:
        assert expected_s(share - 0.01, wanted_per_s) > goal_s
        assert joules(share) > joules(share - 0.01)


def test_golden_energy_per_token() -> None:
    assert joules(0.0) == pytest.approx(0.5)
    assert joules(1.0) == pytest.approx(0.8)
    assert joules(turbo_share(ECO, TURBO, 10.0, 0.04)) == pytest.approx(25 / 35)


def test_turbo_that_is_no_faster_is_never_worth_its_watts() -> None:
    assert turbo_share(ECO, ECO, 100.0, 0.01) == 0
    assert turbo_share(TURBO, ECO, 100.0, 0.01) == 0


@pytest.mark.parametrize(
    ("setting", "wanted_per_s", "goal_s", "mode"),
    [
        ("eco", 100.0, 0.001, PowerMode.ECO),
        ("turbo", 0.0, 0.0, PowerMode.TURBO),
        ("auto", 0.0, 0.0, PowerMode.ECO),
        ("auto", 0.0, 0.001, PowerMode.ECO),
        ("auto", 5.0, 0.0, PowerMode.TURBO),
        ("auto", 5.0, 1.0, PowerMode.ECO),
        ("auto", 45.0, 0.01, PowerMode.TURBO),
    ],
)
def test_mode_for_what_the_owner_set(setting: str, wanted_per_s: float, goal_s: float, mode: PowerMode) -> None:
    power = next_power(Power(), setting, ECO, TURBO, wanted_per_s=wanted_per_s, goal_s=goal_s)
    assert power.mode is mode


def test_unmeasured_modes_are_tried_eco_first() -> None:
    assert next_power(Power(), "auto", None, None, wanted_per_s=1.0, goal_s=0.1).mode is PowerMode.ECO
    assert next_power(Power(), "auto", ECO, None, wanted_per_s=1.0, goal_s=0.1).mode is PowerMode.TURBO


def test_turbo_gets_its_share_of_the_time() -> None:
    power, turbo = Power(), 0
    for _ in range(120):
        power = next_power(power, "auto", ECO, TURBO, wanted_per_s=10.0, goal_s=0.04)
        turbo += power.mode is PowerMode.TURBO
    assert turbo == 60


def package(folder: Path, number: int, name: str, used_uj: int, range_uj: int = 10_000_000) -> Path:
    place = folder / f"intel-rapl:{number}" if name.startswith("package") else folder / f"intel-rapl:0:{number}"
    place.mkdir()
    (place / "name").write_text(f"{name}\n")
    (place / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (place / "energy_uj").write_text(f"{used_uj}\n")
    return place / "energy_uj"


def test_watts_of_all_packages_without_their_parts_and_over_a_wrap(tmp_path: Path) -> None:
    one, other = package(tmp_path, 0, "package-0", 1_000_000), package(tmp_path, 1, "package-1", 9_000_000)
    core = package(tmp_path, 2, "core", 0)
    watts = PackageWatts(100.0, tmp_path)
    one.write_text("5000000\n")  # 4 J
    other.write_text("1000000\n")  # 2 J, over its range
    core.write_text("3000000\n")
    assert watts.watts(102.0) == pytest.approx(3.0)
    assert watts.watts(103.0) == pytest.approx(0.0)


def test_watts_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    assert PackageWatts(0.0, tmp_path / "absent").watts(1.0) is None
    counter = package(tmp_path, 0, "package-0", 5)
    watts = PackageWatts(0.0, tmp_path)
    assert watts.watts(0.0) is None
    counter.unlink()
    assert watts.watts(1.0) is None


def test_both_modes_are_measured_published_and_followed(tmp_path: Path) -> None:
    cap, counter = ThreadCap(), package(tmp_path, 0, "package-0", 0, range_uj=10**12)
    speeds = TwoSpeeds(cap, PackageWatts(0.0, tmp_path), 0.0)
    guest, tokens, busy_s, energy_uj = GuestConfig(goal_ms=50.0), 0, 0.0, 0
    for second in range(1, 200):
        able, watts = (50, 40) if speeds.mode is PowerMode.TURBO else (20, 10)
        tokens, busy_s, energy_uj = tokens + 15, busy_s + 15 / able, energy_uj + watts * 10**6
        counter.write_text(f"{energy_uj}\n")
        speeds.look(float(second), DecodeWork(tokens, busy_s), guest)
        assert cap.saving is (speeds.mode is PowerMode.ECO)
    (eco, eco_tps, eco_watts), (turbo, turbo_tps, turbo_watts) = speeds.published()["speeds"]
    assert (eco, eco_tps, eco_watts) == ("eco", pytest.approx(20.0), pytest.approx(10.0))
    assert (turbo, turbo_tps) == ("turbo", pytest.approx(50.0))
    assert turbo_watts == 0.0  # busy for less than half of the time: unknown
    speeds.look(200.0, DecodeWork(tokens, busy_s), guest)
    assert (speeds.mode, cap.now) == (PowerMode.ECO, 1)  # nothing is asked any more
    speeds.look(201.0, DecodeWork(), guest)  # another span
    assert speeds.mode is PowerMode.ECO
