# Says what the environment of this interpreter holds, as JSON: the folders of its packages, and each package's version. Writes,
# into the folder that is named, a wheel without content for each, so that a resolver finds all of them there and none elsewhere: some are
# on no index (other builds, a checkout), and none is to be fetched. Their own requirements are left out, since they are met or
# their owner knows; those of extras are not. The version's local part makes it another one than any on an index.
import importlib.metadata
import json
import os
import re
import sys
import zipfile

PEP_440 = re.compile(
    r"v?(?:\d+!)?\d+(?:\.\d+)*(?:[-_.]?(?:alpha|a|beta|b|preview|pre|c|rc)[-_.]?\d*)?"
    r"(?:-\d+|[-_.]?(?:post|rev|r)[-_.]?\d*)?(?:[-_.]?dev[-_.]?\d*)?(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?",
    re.IGNORECASE,
)

stubs = sys.argv[1]
path = [folder for folder in sys.path if folder and os.path.isdir(folder)]
folders = [folder for folder in path if os.path.basename(folder) in ("site-packages", "dist-packages")]
packages = {}
for package in importlib.metadata.distributions(path=path):
    name, version = package.metadata["Name"], package.metadata["Version"]
    # The rest of a package that was removed by hand has none.
    if not name or not version:
        continue
    name = re.sub(r"[-_.]+", "-", name).lower()
    # What others than pip installed may have a version that no resolver reads, such as Debian's 1.1build1.
    if name in packages or not PEP_440.fullmatch(version):
        continue
    local = version if "+" in version else version + "+comfyui"
    packages[name] = local
    lines = ["Metadata-Version: 2.1", "Name: " + name, "Version: " + local]
    lines += ["Provides-Extra: " + extra for extra in package.metadata.get_all("Provides-Extra") or []]
    lines += ["Requires-Dist: " + needed for needed in package.requires or [] if re.search(r"\bextra\s*==", needed)]
    stem = name.replace("-", "_") + "-" + local
    with zipfile.ZipFile(os.path.join(stubs, stem + "-py3-none-any.whl"), "w") as wheel:
        wheel.writestr(stem + ".dist-info/METADATA", "\n".join(lines) + "\n\n")
        wheel.writestr(stem + ".dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(stem + ".dist-info/RECORD", "")
print("qwen-image-worker " + json.dumps({"folders": folders, "packages": packages}))
