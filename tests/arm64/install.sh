#!/usr/bin/env bash
# An arm64 machine in a folder, for `make test-arm64`: qemu-user, Python and its libraries from Debian packages, and the
# wheels that embedrt needs, for aarch64.
#
#   tests/arm64/install.sh PYTHON FOLDER
#
# PYTHON runs pip; FOLDER gets about 0.8 GB, and keeps what it has if this is run again. Nothing outside of FOLDER
# changes, so it needs no root: apt-get works on lists and a cache of its own, and packages are unpacked, not installed.
# The release of Debian is fixed, whatever this machine runs: qemu-user before 8.2 shows an x86-64 /proc/cpuinfo to Arm
# programs, which ends ONNX Runtime.
set -euo pipefail
release=trixie
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
platforms=(manylinux_2_28_aarch64 manylinux_2_27_aarch64 manylinux_2_17_aarch64 manylinux2014_aarch64)

die() {
    echo "tests/arm64/install.sh: $1" >&2
    exit 1
}

[ $# = 2 ] || die "expected PYTHON FOLDER"
python=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || die "expected Linux on x86-64, got $(uname -s) $(uname -m)"
for command in apt-get dpkg-deb; do
    command -v "$command" > /dev/null || die "$command is missing; this needs Debian or Ubuntu"
done
[ -f "$keyring" ] || die "$keyring is missing; run \`apt-get install debian-archive-keyring\`"

# apt of its own: lists, cache and sources. _apt, apt's user for downloads, may not reach FOLDER.
apt=$folder/apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial"
: > "$apt/status"
echo "deb [signed-by=$keyring] $mirror $release main" > "$apt/sources.list"
cat > "$apt/apt.conf" << END
APT::Architecture "arm64";
APT::Architectures { "arm64"; "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::State::extended_states "$apt/extended_states";
Dir::Cache "$apt";
Dir::Cache::archives "$apt/archives";
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "-";
Dir::Log "$apt";
Debug::NoLocking "true";
END
export APT_CONFIG=$apt/apt.conf
apt-get -qq update
apt-get -qq --yes --download-only install qemu-user:amd64 python3:arm64 libstdc++6:arm64 libgomp1:arm64 < /dev/null

root=$folder/root
rm -rf "$root"
mkdir -p "$root/usr/lib"
ln -s usr/lib "$root/lib" # of the package base-files
for package in "$apt"/archives/*.deb; do
    dpkg-deb -x "$package" "$root"
done
# Of the emulators, two are of use.
find "$root/usr/bin" -name 'qemu-*' ! -name qemu-aarch64 ! -name qemu-x86_64 -delete

version=$(basename "$(find "$root/usr/bin" -name 'python3.??' | head -1)")
"$python" - > "$folder/requirements.txt" << 'END'
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *extras["cpu"], *extras["export"], sep="\n")
END
"$python" -m pip install --quiet --disable-pip-version-check --root-user-action ignore --upgrade --target "$folder/site" \
    --python-version "${version#python}" "${platforms[@]/#/--platform=}" --only-binary=:all: \
    --requirement "$folder/requirements.txt"
PYTHONPATH=$folder/site "$root/usr/bin/qemu-aarch64" -L "$root" -cpu neoverse-n1 "$root/usr/bin/$version" -c \
    'import numpy, onnxruntime, onnx, tokenizers' || die "Python does not run in $folder"
