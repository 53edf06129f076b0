"""Battery or mains, and which kind of device this is. Termux's own API is not asked: it starts an app.

Knows: psutil's battery, /sys/class/power_supply, the marks of Android and Termux.
Refuses to know: what anyone does to save power.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from slmchat.hardware.facts import Fact, number_of, text_of
from slmchat.hardware.memory import ROOT


def power(root: Path = ROOT) -> tuple[Fact[bool], Fact[int]]:
    """Whether the device runs on its battery, and the battery's charge in percent; None each where nobody says."""
    supplies = root / "sys/class/power_supply"
    try:
        found = sorted(supplies.iterdir())
    except OSError:
        return _by_psutil()
    batteries = [supply for supply in found if _is_battery(supply)]
    source = str(supplies)
    if not batteries:
        return Fact(False, f"{source} has no battery"), Fact(None, f"{source} has no battery")
    charge = Fact(number_of(batteries[0] / "capacity"), source)
    states = {text_of(battery / "status") for battery in batteries}
    if "Discharging" in states:
        return Fact(True, source), charge
    mains = [number_of(supply / "online") for supply in found if supply not in batteries]
    if states & {"Charging", "Full", "Not charging"} or 1 in mains:
        return Fact(False, source), charge
    return Fact(None, f"{source} does not tell"), charge


def _is_battery(supply: Path) -> bool:
    """Batteries of mice and keyboards say `Device` in their scope."""
    return text_of(supply / "type") == "Battery" and text_of(supply / "scope") != "Device"


def _by_psutil() -> tuple[Fact[bool], Fact[int]]:
    source = "psutil.sensors_battery"
    try:
        import psutil

        battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    except (ImportError, OSError, RuntimeError, NotImplementedError):  # Android: no psutil, or hidden files
        battery = None
    if battery is None:
        return Fact(None, source), Fact(None, source)
    plugged = battery.power_plugged
    return Fact(None if plugged is None else not plugged, source), Fact(round(battery.percent), source)


def is_android(environ: Mapping[str, str] = os.environ) -> Fact[bool]:
    """Whether this is Android: Python says so, or the variables that every Android process has are set."""
    if sys.platform == "android" or hasattr(sys, "getandroidapilevel"):
        return Fact(True, "Python was built for Android")
    return Fact("ANDROID_ROOT" in environ and "ANDROID_DATA" in environ, "ANDROID_ROOT and ANDROID_DATA")
