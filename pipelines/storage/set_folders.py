"""The sets of variants that there are, and the folders that go with each.

    variants/<set>               the set, as `bottleneck compress --set <set>` stores it
    variants/<set>-on-the-fly    only a list of its images, for variants made in memory
    features/, features-control/ the caches made from it

Folders of caches are told by their names' endings, so that nobody has to look into them.
"""

from __future__ import annotations

from pathlib import Path

JPEG, CONTROL = "jpeg", "control"
SETS = (JPEG, CONTROL)


def stored(set_name: str = JPEG) -> Path:
    """Return the folder of a set, relative to the workspace."""
    return Path("variants") / set_name


def listed(set_name: str = JPEG) -> Path:
    """Return the folder of a set that only lists its images, relative to the workspace."""
    return Path("variants") / f"{set_name}-on-the-fly"


def ending(set_name: str) -> str:
    """Return what the names of things made from a set end in: nothing for JPEG."""
    return "" if set_name == JPEG else f"-{set_name}"


def features(features_dir: str, set_name: str) -> str:
    """Return the folder of the caches made from a set.

    Args:
        features_dir: the setting, which is the folder of those made from JPEG variants.
        set_name: of the set.
    """
    return f"{Path(features_dir)}{ending(set_name)}"


def settings_of(features_dir: str) -> tuple[str, str]:
    """Turn a folder of caches back into the setting and the set with which `extract` fills it."""
    for name in SETS:
        if ending(name) and features_dir.endswith(ending(name)):
            return features_dir.removesuffix(ending(name)), name
    return features_dir, JPEG


def flag(folder: Path) -> str:
    """Return what a command has to be given to fill a folder of variants or caches, for messages.

    Returns:
        Such as " --set control"; nothing for JPEG, which is the default.
    """
    name = folder.name if folder.name in SETS else settings_of(folder.name)[1]
    return f" --set {name}" if ending(name) else ""
