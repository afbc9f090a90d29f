"""A package that offers policies, put on `sys.path` as an installer would: installed, upgraded, taken away."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

SOURCE = '''
from pointsman.policies.policy import PlainPolicy, PolicyConfig
from pointsman.policies.decision import Ranked, Reason


class LastConfig(PolicyConfig, frozen=True, kw_only=True):
    pass


class Last(PlainPolicy[LastConfig]):
    """Chooses the last candidate."""

    name = "last"
    Config = LastConfig

    def rank(self, features, candidates, context):
        return [Ranked(slot, Reason.CUSTOM) for slot in candidates.slots[::-1].tolist()[: context.limit]]
'''
MORE = '''

class Other(Last):
    """Chooses the last candidate, under another name."""

    name = "other"
'''


class InstalledPackage:
    """One distribution with one module, in a folder of its own."""

    def __init__(self, site: Path, name: str = "fleet-extras") -> None:
        self.site = site
        self.name = name
        self.module = f"offered_{uuid.uuid4().hex}"
        """Another one for each package: modules are imported once a process."""

    def install(self, version: str = "1.0", source: str = SOURCE, **offered: str) -> None:
        """Put a version there, in place of the one before. `offered` are classes by the name of their policy."""
        self.remove()
        info = self.site / f"{self.name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {version}\n")
        lines = [f"{name} = {self.module}:{cls}" for name, cls in (offered or {"last": "Last"}).items()]
        (info / "entry_points.txt").write_text("\n".join(["[pointsman.policies]", *lines, ""]))
        module = self.site / f"{self.module}.py"
        if not module.exists() or module.read_text() != source:
            module.write_text(source)

    def remove(self) -> None:
        """Take the distribution away; its module stays, as one that is imported does."""
        for info in self.site.glob("*.dist-info"):
            shutil.rmtree(info)
