"""Joules from planted counters in place of /sys: they begin again at 0, may not be read, are several, are on mains."""

from pathlib import Path

import pytest
from test_hardware import plant

from slmchat.hardware import energy
from slmchat.hardware.energy import EnergyMeter, energy_meter

RAPL = "sys/class/powercap/intel-rapl:0"
BATTERY = "sys/class/power_supply/BAT0"

PACKAGE = {
    f"{RAPL}/name": "package-0",
    f"{RAPL}/energy_uj": "1000000",
    f"{RAPL}/max_energy_range_uj": "65000000000",
}
SECOND = {
    "sys/class/powercap/intel-rapl:1/name": "package-1",
    "sys/class/powercap/intel-rapl:1/energy_uj": "64999000000",
    "sys/class/powercap/intel-rapl:1/max_energy_range_uj": "65000000000",
}
DISCHARGING = {
    f"{BATTERY}/type": "Battery",
    f"{BATTERY}/status": "Discharging",
    f"{BATTERY}/energy_now": "40000000",
}


def _meter(root: Path, *trees: dict[str, str]) -> EnergyMeter:
    for tree in trees:
        plant(root, tree)
    return energy_meter(root, "linux")


def test_a_package_counts_in_microjoules(tmp_path: Path) -> None:
    meter = _meter(tmp_path, PACKAGE)
    plant(tmp_path, {f"{RAPL}/energy_uj": "8500000"})
    assert meter.read() == pytest.approx(7.5)
    plant(tmp_path, {f"{RAPL}/energy_uj": "9500000"})
    assert meter.read() == pytest.approx(8.5)
    assert (meter.covers, meter.why_not) == ("the processor, with all programs", None)


def test_a_counter_that_begins_again_at_0_goes_on(tmp_path: Path) -> None:
    meter = _meter(tmp_path, PACKAGE, {f"{RAPL}/energy_uj": "64999500000"})
    plant(tmp_path, {f"{RAPL}/energy_uj": "2000000"})
    assert meter.read() == pytest.approx(2.5)


def test_two_packages_and_their_memory_are_added_and_nothing_twice(tmp_path: Path) -> None:
    """The cores and the graphics of a package are in it; mmio is the package once more, psys the whole platform."""
    inside = {"0": "core", "1": "uncore", "2": "dram"}
    tree = {}
    for number, name in inside.items():
        place = f"sys/class/powercap/intel-rapl:0:{number}"
        tree |= {f"{place}/name": name, f"{place}/energy_uj": "0", f"{place}/max_energy_range_uj": "65000000000"}
    for place, name in (("intel-rapl-mmio:0", "package-0"), ("intel-rapl:2", "psys")):
        place = f"sys/class/powercap/{place}"
        tree |= {f"{place}/name": name, f"{place}/energy_uj": "0", f"{place}/max_energy_range_uj": "65000000000"}
    meter = _meter(tmp_path, PACKAGE, SECOND, tree)
    later = {name: "4000000" for name in tree if name.endswith("energy_uj")}
    plant(tmp_path, {**later, f"{RAPL}/energy_uj": "3000000", "sys/class/powercap/intel-rapl:1/energy_uj": "500000"})
    assert meter.read() == pytest.approx(2.0 + 1.5 + 4.0)
    assert meter.covers == "2 processors and their memory, with all programs"


def test_counters_for_root_alone_are_no_figure_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, PACKAGE)
    (tmp_path / RAPL / "energy_uj").chmod(0)
    monkeypatch.setattr(energy.os, "access", lambda *_: False)  # as for a user; these tests may run as root
    monkeypatch.setattr(energy, "number_of", lambda file: None if file.name == "energy_uj" else 1)
    meter = energy_meter(tmp_path, "linux")
    assert meter.why_not is not None and "only root may read the processor's counters" in meter.why_not
    assert meter.read() == 0 and not meter.is_enough(0)


def test_one_package_that_cannot_be_read_makes_the_sum_none(tmp_path: Path) -> None:
    meter = _meter(tmp_path, PACKAGE, {**SECOND, "sys/class/powercap/intel-rapl:1/energy_uj": "?"})
    assert meter.why_not is not None and "intel-rapl:1/energy_uj cannot be read" in meter.why_not


def test_a_counter_that_goes_away_ends_the_measurement(tmp_path: Path) -> None:
    meter = _meter(tmp_path, PACKAGE)
    (tmp_path / RAPL / "energy_uj").unlink()
    meter.read()
    assert meter.why_not is not None and "can no longer be read" in meter.why_not
    assert not meter.is_enough(100)


class TestBattery:
    def test_it_gives_microwatt_hours(self, tmp_path: Path) -> None:
        meter = _meter(tmp_path, DISCHARGING)
        plant(tmp_path, {f"{BATTERY}/energy_now": "39990000"})
        assert meter.read() == pytest.approx(36.0)
        assert meter.covers == "the whole device, from its battery"

    @pytest.mark.parametrize("name", ["charge_now", "charge_counter"])
    def test_or_a_charge_at_a_voltage_as_phones_have_it(self, tmp_path: Path, name: str) -> None:
        tree = {f"{BATTERY}/type": "Battery", f"{BATTERY}/status": "Discharging", f"{BATTERY}/voltage_now": "4000000"}
        meter = _meter(tmp_path, tree, {f"{BATTERY}/{name}": "2000000"})
        plant(tmp_path, {f"{BATTERY}/{name}": "1999000"})
        assert meter.read() == pytest.approx(14.4)  # 1 mAh at 4 V

    def test_steps_as_large_as_the_measurement_are_none(self, tmp_path: Path) -> None:
        meter = _meter(tmp_path, DISCHARGING)
        assert not meter.is_enough(meter.read())
        for number in range(1, 12):
            plant(tmp_path, {f"{BATTERY}/energy_now": str(40_000_000 - 10_000 * number)})
            assert meter.is_enough(meter.read()) == (number >= 10)

    @pytest.mark.parametrize("status", ["Charging", "Full", "Not charging"])
    def test_on_mains_it_tells_nothing(self, tmp_path: Path, status: str) -> None:
        meter = _meter(tmp_path, DISCHARGING, {f"{BATTERY}/status": status})
        assert meter.why_not is not None and meter.why_not.endswith("on mains, where a battery tells nothing")

    def test_plugged_in_meanwhile_it_was_no_measurement(self, tmp_path: Path) -> None:
        meter = _meter(tmp_path, DISCHARGING)
        plant(tmp_path, {f"{BATTERY}/energy_now": "39000000", f"{BATTERY}/status": "Charging"})
        meter.read()
        assert meter.why_not == "the device was plugged in meanwhile"

    def test_the_processor_comes_first_and_the_battery_of_a_mouse_never(self, tmp_path: Path) -> None:
        assert "processor" in _meter(tmp_path / "both", PACKAGE, DISCHARGING).covers
        mouse = _meter(tmp_path / "mouse", DISCHARGING, {f"{BATTERY}/scope": "Device"})
        assert mouse.why_not is not None and mouse.why_not.endswith("shows no battery")


def test_a_device_that_tells_nothing(tmp_path: Path) -> None:
    meter = _meter(tmp_path)
    assert meter.why_not is not None and "has no counter of a processor" in meter.why_not
    assert meter.read() == 0


def test_macos_tells_nanojoules_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([1_000_000_000, 4_500_000_000, 4_500_000_000])
    monkeypatch.setattr(energy, "_energy_nj", lambda: next(told))
    meter = energy_meter(platform="darwin")
    assert meter.read() == pytest.approx(3.5)
    assert meter.is_enough(3.5) and not meter.is_enough(0.0)
    assert meter.read() == pytest.approx(3.5)
    assert "macOS estimates" in meter.covers


def test_the_number_of_macos_stands_behind_a_uuid_and_forty_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """struct rusage_info_v6 of <sys/resource.h>, filled in by a planted function."""
    import ctypes

    class Library:
        def proc_pid_rusage(self, pid: int, flavor: int, buffer: object) -> int:
            numbers = (ctypes.c_uint64 * 56).from_buffer(buffer._obj, 16)  # type: ignore[attr-defined]
            numbers[40] = 77 if flavor == 6 else 0
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Library())
    assert energy._energy_nj() == 77
